"""The layer: the product with the weight that it stands for, in any shape of x, under torch.compile, in any type."""

import pytest
import torch
from torch import nn

from deshi.kernels.compressed_tensors import Scheme, compress, decompress
from deshi.kernels.quantized_linear import QuantizedLinear, Rounded
from deshi.kernels.round_to_nearest import Format

SCHEMES = {
    "w4a16": Scheme(weights=Format(bits=4, group_size=32)),
    "w4a16-zeros": Scheme(weights=Format(bits=4, group_size=64, symmetric=False)),
    "w8a16": Scheme(weights=Format(bits=8)),
    "w8a8": Scheme(weights=Format(bits=8), int8_activations=True),
}


def made(scheme, *, activation="none", rounded=None, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight, bias = torch.randn(24, 192, generator=generator), torch.randn(24, generator=generator)
    tensors = compress(weight, scheme, torch.float32)
    layer = QuantizedLinear(tensors, scheme, bias, activation=activation, rounded=rounded)
    return layer, decompress(tensors, scheme).dequantized(), bias


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("shape", [(192,), (5, 192), (2, 3, 192)])
def test_it_is_the_linear_layer_of_the_rounded_weight(name, shape):
    layer, weight, bias = made(SCHEMES[name], activation="gelu")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    expected = nn.functional.gelu(x.double() @ weight.double().t() + bias.double())
    # int8 activations are half a step off at most, a step being the 127th part of the largest.
    step = x.abs().amax(-1, keepdim=True).double() / 127
    allowed = 1e-4 + (1.13 * step / 2 * weight.abs().sum(1).double() if "a8" in name else 0)
    got = layer(x)
    assert got.shape == (*shape[:-1], 24) and bool(((got - expected).abs() <= allowed).all())


@pytest.mark.parametrize("name", SCHEMES)
def test_it_is_compiled_as_one_graph(name):
    layer, _, _ = made(SCHEMES[name])
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    for rows in (3, 7):
        x = torch.randn(rows, 192, generator=torch.Generator().manual_seed(rows))
        assert torch.equal(compiled(x), layer(x))


def test_scales_stay_float32_whatever_the_model_is_cast_to():
    for scheme in SCHEMES.values():
        layer, _, _ = made(scheme)
        before = layer.scale.clone()
        layer = layer.to(torch.bfloat16)
        assert layer.scale.dtype == torch.float32 and torch.equal(layer.scale, before)
        assert layer.bias.dtype == torch.bfloat16 and not layer.weight.is_floating_point()
        assert layer(torch.randn(2, 192, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_layers_that_read_the_same_tensor_share_its_rounding(monkeypatch):
    from deshi.kernels import quantized_linear

    counted = []
    real = quantized_linear.quantize_rows
    monkeypatch.setattr(quantized_linear, "quantize_rows", lambda x: counted.append(len(x)) or real(x))
    rounded = Rounded()
    first, second = (made(SCHEMES["w8a8"], rounded=rounded, seed=seed)[0] for seed in (0, 1))
    x, other = torch.randn(2, 192), torch.randn(2, 192)
    alone = second(x.clone())
    counted.clear()
    first(x)
    assert torch.equal(second(x), alone) and len(counted) == 1
    first(other)
    second(x)
    assert len(counted) == 3, "another tensor is rounded anew"

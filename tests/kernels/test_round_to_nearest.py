"""The quantizer against its stated bound, and against compressed-tensors' own dequantization."""

import pytest
import torch
from compressed_tensors.quantization import QuantizationArgs
from compressed_tensors.quantization.lifecycle.forward import dequantize as their_dequantize
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels.round_to_nearest import Format, quantize


@settings(max_examples=120, deadline=None)
@given(
    bits=st.sampled_from([4, 8]),
    group=st.sampled_from([None, 32, 64, 128]),
    symmetric=st.booleans(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
    shift=st.sampled_from([0.0, 3.0]),
    rows=st.integers(1, 5),
    groups=st.integers(1, 3),
    seed=st.integers(0, 99),
)
def test_no_weight_is_further_off_than_stated(bits, group, symmetric, dtype, size, shift, rows, groups, seed):
    generator = torch.Generator().manual_seed(seed)
    weight = size * (torch.randn(rows, groups * (group or 37), generator=generator) + shift)
    format = Format(bits=bits, group_size=group, symmetric=symmetric)
    quantized = quantize(weight, format, scale_dtype=dtype)
    assert quantized.scale.dtype == dtype and quantized.scale.shape == (rows, format.groups(weight.shape[1]))
    assert -(2 ** (bits - 1)) <= int(quantized.values.min()) and int(quantized.values.max()) < 2 ** (bits - 1)
    width = weight.shape[1] // quantized.scale.shape[1]
    scale = quantized.scale.double().repeat_interleave(width, dim=1)
    zero = 0 if quantized.zero_point is None else quantized.zero_point.double().repeat_interleave(width, dim=1)
    error = (weight.double() - (quantized.values.double() - zero) * scale).abs()
    stored = 2 ** (bits - 1) * torch.finfo(dtype).eps * scale  # the scale was rounded: the ends move
    allowed = (0.5 if symmetric else 1.0) * scale * (1 + 1e-5) + (stored if symmetric else 2 * stored)
    assert bool((error <= allowed).all()), (error / allowed).max()


@pytest.mark.parametrize("group", [None, 32])
@pytest.mark.parametrize("symmetric", [True, False])
def test_dequantized_as_compressed_tensors_does(group, symmetric):
    weight = torch.randn(6, 64, generator=torch.Generator().manual_seed(0)) + 0.5
    quantized = quantize(weight, Format(bits=4, group_size=group, symmetric=symmetric), scale_dtype=torch.bfloat16)
    args = QuantizationArgs(
        num_bits=4, strategy="channel" if group is None else "group", group_size=group, symmetric=symmetric
    )
    theirs = their_dequantize(x_q=quantized.values, scale=quantized.scale, zero_point=quantized.zero_point, args=args)
    assert torch.equal(quantized.dequantized(), theirs)


def test_smaller_steps_than_dividing_by_the_largest_integer():
    weight = torch.randn(64, 128, generator=torch.Generator().manual_seed(0))
    ours = quantize(weight, Format(bits=4, group_size=128))
    step = weight.abs().amax(1, keepdim=True) / 7
    plain = torch.round(weight / step).clamp(-8, 7) * step
    assert (weight - ours.dequantized()).square().mean() < (weight - plain).square().mean()


def test_zeros_and_tiny_groups_stay_finite():
    weight = torch.zeros(2, 64)
    weight[1, 40] = 1e-42
    for symmetric in (True, False):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            quantized = quantize(weight, Format(bits=4, group_size=32, symmetric=symmetric), scale_dtype=dtype)
            assert bool(torch.isfinite(quantized.scale).all()) and bool((quantized.scale > 0).all())
            assert not quantized.dequantized()[0].any()


@pytest.mark.parametrize(
    ("weight", "format", "says"),
    [
        (torch.zeros(2, 48), Format(bits=4, group_size=32), "does not divide the 48 columns"),
        (torch.zeros(2, 48), Format(bits=4, group_size=16), "use 32, 64, 128 or None"),
        (torch.zeros(2, 4, dtype=torch.int8), Format(bits=8), "floating matrix"),
        (torch.zeros(0, 4), Format(bits=8), "floating matrix"),
        (torch.tensor([[1.0, float("nan")]]), Format(bits=8), "NaN or infinity"),
    ],
)
def test_bad_input_is_refused(weight, format, says):
    with pytest.raises(ValueError, match=says):
        quantize(weight, format)

"""Products of 4- and 8-bit weights against float64: every group, ragged shapes, bias and activation, extremes, NaN."""

import runpy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels import w4a16, w8a16
from deshi.kernels.packing import fill_rows, interleave
from deshi.kernels.round_to_nearest import Format, quantize
from deshi.kernels.tuning import FOLDER, Config, read

PTX = runpy.run_path(str(Path(__file__).with_name("ptx.py")))

U = 2**-24
SLOPES = {"none": 1, "relu": 1, "gelu": 1.13, "silu": 1.1}
ACTIVATIONS = {
    "none": lambda y: y,
    "relu": torch.relu,
    "gelu": torch.nn.functional.gelu,
    "silu": torch.nn.functional.silu,
}


@dataclass(frozen=True, kw_only=True)
class Product:
    bits: int
    module: Any
    public: Callable[..., torch.Tensor]
    lay: Callable[[torch.Tensor], torch.Tensor]


PRODUCTS = {
    "w4a16": Product(bits=4, module=w4a16, public=w4a16.w4a16, lay=interleave),
    "w8a16": Product(bits=8, module=w8a16, public=w8a16.w8a16, lay=fill_rows),
}
# Splits, one split, and the weight made whole.
TILES = (
    {"block_m": 8, "block_n": 16, "block_k": 32, "programs": 64},
    {"block_m": 16, "block_n": 32, "block_k": 128, "programs": 1},
    {"block_n": 16, "block_k": 64, "dequantize": True},
)
pytestmark = pytest.mark.parametrize("name", PRODUCTS)


def sizes(tile):
    return Config(rows=None, warps=4, **tile)


def weights(bits, rows, columns, group, symmetric, scale=1.0):
    weight = torch.randn(rows, columns, generator=torch.Generator().manual_seed(0)) * scale
    return quantize(weight, Format(bits=bits, group_size=group, symmetric=symmetric))


def stored(product, quantized, device):
    zero = quantized.zero_point
    return (
        product.lay(quantized.values).to(device),
        quantized.scale.t().contiguous().to(device),
        None if zero is None else zero.t().contiguous().to(device),
    )


def whole(quantized):
    """W' in float64, by hand."""
    each = quantized.values.shape[1] // quantized.scale.shape[1]
    weight = quantized.values.double()
    if quantized.zero_point is not None:
        weight = weight - quantized.zero_point.double().repeat_interleave(each, dim=1)
    return weight * quantized.scale.double().repeat_interleave(each, dim=1)


def exact_and_bound(x, quantized, bias, activation):
    """The product in float64, and what the docstring of weight_only.py allows beside the rounding of the result."""
    weight = whole(quantized)
    b = torch.zeros(len(weight)).double() if bias is None else bias.double()
    exact = ACTIVATIONS[activation](x.double() @ weight.t() + b)
    size = x.double().abs() @ weight.abs().t() + b.abs()
    return exact, SLOPES[activation] * (x.shape[1] + quantized.scale.shape[1] + 16 + 2) * 2 * U * size


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 40),
    blocks=st.integers(1, 9),
    ragged=st.integers(1, 300),
    group=st.sampled_from([32, 64, 128, None]),
    symmetric=st.booleans(),
    activation=st.sampled_from(sorted(SLOPES)),
    with_bias=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    tile=st.sampled_from(TILES),
)
def test_it_is_the_product(
    name, device, share_of_bound, rows, columns, blocks, ragged, group, symmetric, activation, with_bias, dtype, tile
):
    product, inner = PRODUCTS[name], ragged if group is None else group * blocks
    quantized = weights(product.bits, columns, inner, group, symmetric)
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inner, generator=generator).to(dtype)
    bias = torch.randn(columns, generator=generator).to(dtype) if with_bias else None
    exact, bound = exact_and_bound(x, quantized, bias, activation)
    there = None if bias is None else bias.to(device)
    got = product.module.run(x.to(device), *stored(product, quantized, device), there, activation, sizes(tile))
    assert share_of_bound(product.public(x, *stored(product, quantized, "cpu"), bias, activation), exact, bound) <= 1
    if "dequantize" in tile:  # the whole weight, and the product before bias and activation, are rounded to 16 bits
        size = x.double().abs() @ whole(quantized).abs().t()
        bound = bound + 1.13 * 3 * torch.finfo(dtype).eps * size
    assert share_of_bound(got, exact, bound) <= 1


def test_every_integer_is_exact(name, device):
    """All values against all zero points at the edges, a one at a time, and no rounding anywhere."""
    product, half = PRODUCTS[name], 1 << PRODUCTS[name].bits - 1
    values = torch.arange(-half, half).to(torch.int8).repeat(5, 1)
    zero = torch.tensor([[-half, -1, 0, 1, half - 1]], dtype=torch.int8)
    x = torch.eye(2 * half).to(torch.bfloat16)
    for zeros in (zero, None):
        wanted = (values.float() - (0 if zeros is None else zeros.t().float())).t()
        there = None if zeros is None else zeros.to(device)
        given = (x.to(device), product.lay(values).to(device), torch.ones(1, 5, device=device), there, None, "none")
        assert torch.equal(product.module.run(*given, sizes(TILES[1])).float().cpu(), wanted)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e4])
def test_scales_may_be_extreme(name, device, share_of_bound, size):
    product = PRODUCTS[name]
    quantized = weights(product.bits, 24, 128, 64, True, scale=size)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    got = product.module.run(x.to(device), *stored(product, quantized, device), None, "none", sizes(TILES[1]))
    assert share_of_bound(got, *exact_and_bound(x, quantized, None, "none")) <= 1


def test_zeros_stay_zeros(name, device):
    product = PRODUCTS[name]
    quantized = quantize(torch.zeros(8, 64), Format(bits=product.bits, group_size=32))
    x = torch.ones(2, 64, dtype=torch.bfloat16, device=device)
    assert not product.module.run(x, *stored(product, quantized, device), None, "none", sizes(TILES[0])).any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(name, device, poison):
    product = PRODUCTS[name]
    quantized = weights(product.bits, 24, 256, 128, True)
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    x[2, 77] = poison
    for tile in TILES:
        got = product.module.run(x.to(device), *stored(product, quantized, device), None, "none", sizes(tile))
        assert torch.isfinite(got).all(dim=1).tolist() == [True, True, False, True]
        # 0 times infinity is no number: where a weight is 0, the output is NaN and not a finite one.
        assert not torch.isfinite(got[2]).any()


def test_rows_of_x_may_lie_apart(name, device, share_of_bound):
    product = PRODUCTS[name]
    quantized = weights(product.bits, 24, 128, 64, True)
    wide = torch.randn(3, 300, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    x = wide.to(device)[:, 100:228]
    got = product.module.run(x, *stored(product, quantized, device), None, "none", sizes(TILES[1]))
    assert share_of_bound(got, *exact_and_bound(wide[:, 100:228], quantized, None, "none")) <= 1


def test_the_conversion_in_ptx_is_the_conversion(name):
    """The assembler text, executed instruction by instruction, makes every pair of 16-bit floats."""
    words = torch.randint(-(2**31), 2**31, (128,), generator=torch.Generator().manual_seed(0)).tolist()
    for kind, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        for first, second in zip(words[::2], words[1::2], strict=True):
            if name == "w4a16":  # nibble j of both words
                made = PTX["executed"](w4a16.PAIRS[kind], {"$8": first, "$9": second}, dtype)
                pairs = [[w4a16.OFFSET[kind] + (word >> 4 * j & 15) for word in (first, second)] for j in range(8)]
            else:  # the bytes of one word, as signed ones
                made = PTX["executed"](w8a16.BYTES_TO_FLOATS[kind], {"$2": first}, dtype)
                octets = [((first >> 8 * i & 255) ^ 128) - 128 for i in range(4)]
                pairs = [octets[:2], octets[2:]]
            assert [PTX["pair"](made[f"${j}"], dtype).tolist() for j in range(len(pairs))] == pairs


def test_the_default_sizes_are_whole(name):
    classes = read(FOLDER / "default.json")[name]
    assert [config.rows for config in classes] == [*sorted(config.rows for config in classes[:-1]), None]
    assert all(config.block_n and (config.dequantize or config.block_m) for config in classes)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(2, 64, dtype=torch.int32)}, "x is torch.int32"),
        ({"x": torch.zeros(0, 64, dtype=torch.bfloat16)}, "not empty"),
        ({"x": torch.zeros(64, 2, dtype=torch.bfloat16).t()}, "contiguous"),
        (
            {"x": torch.zeros(2, 320, dtype=torch.bfloat16), "scale": torch.ones(1, 8)},
            "the weight's width|filled up to",
        ),
        ({"weight": torch.zeros(8, 64, dtype=torch.uint8)}, "interleave|fill_rows"),
        ({"scale": torch.ones(8, 2)}, r"float32 \[groups, 8\]"),
        ({"scale": torch.ones(2, 8, dtype=torch.float16)}, "scale is torch.float16"),
        ({"scale": torch.ones(3, 8)}, "3 groups do not divide 64"),
        ({"zero": torch.zeros(2, 4, dtype=torch.int8)}, "zero"),
        ({"bias": torch.zeros(7)}, r"bias is \[7\]"),
        ({"activation": "tanh"}, "'tanh' is not known"),
        ({"scale": torch.ones(2, 8, device="meta")}, "move them together"),
    ],
)
def test_bad_input_is_refused_with_the_fix(name, change, says):
    product = PRODUCTS[name]
    good = {
        "x": torch.zeros(2, 64, dtype=torch.bfloat16),
        "weight": product.lay(torch.zeros(8, 64, dtype=torch.int8)),
        "scale": torch.ones(2, 8),
        "zero": None,
        "bias": None,
        "activation": "none",
    }
    product.public(*good.values())
    with pytest.raises(ValueError, match=says):
        product.public(*(good | change).values())


def test_pytorch_knows_the_operator(name, opchecked):
    product = PRODUCTS[name]
    for group, columns in ((32, 64), (None, 37)):
        quantized = weights(product.bits, 16, columns, group, False)
        x = torch.randn(3, columns).to(torch.bfloat16)
        for activation in ("none", "gelu"):
            given = (x, *stored(product, quantized, "cpu"), None, activation)
            assert opchecked(getattr(torch.ops.deshi, name), *given)

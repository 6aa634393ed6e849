"""8-bit products against float64 of the quantized factors, and against what quantization itself may lose."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels.int8 import quantize_int8
from deshi.kernels.norm_quantize import quantize_rows
from deshi.kernels.packing import fill_rows
from deshi.kernels.tuning import FOLDER, Config, read
from deshi.kernels.w8a8 import MAX_COLUMNS, run, w8a8

U = 2**-24
ACTIVATIONS = {"none": lambda y: y, "relu": torch.relu, "gelu": torch.nn.functional.gelu,
               "silu": torch.nn.functional.silu}  # fmt: skip
TILES = (
    {"block_m": 16, "block_n": 16, "block_k": 64, "programs": 64},
    {"block_m": 16, "block_n": 32, "block_k": 128, "programs": 1},
    {"block_m": 64, "block_n": 64, "block_k": 256, "programs": 1},
)
FORMATS = (torch.int8, torch.float8_e4m3fn)


def eight_bits(rows, columns, dtype, generator, low=-127):
    """Random numbers of the format, filled up to 16."""
    if dtype == torch.int8:
        values = torch.randint(low, 128, (rows, columns), generator=generator).to(torch.int8)
        return fill_rows(values)
    values = (torch.randn(rows, columns, generator=generator) * 60).clamp(-448, 448).to(dtype)
    return fill_rows(values.view(torch.int8)).view(dtype)


def factors(rows, columns, inner, dtype, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, weight = eight_bits(rows, inner, dtype, generator), eight_bits(columns, inner, dtype, generator, low=-128)
    row_scale, scale = (torch.rand(size, generator=generator) * 0.01 + 1e-4 for size in (rows, columns))
    return q, row_scale, weight, scale


def on(device, *tensors):
    return [None if one is None else one.to(device) for one in tensors]


def exact_and_bound(q, row_scale, weight, scale, bias, activation):
    """In float64, and what the docstring of w8a8.py allows beside the rounding of the result."""
    by = row_scale.double()[:, None] * scale.double()
    b = torch.zeros(len(weight)).double() if bias is None else bias.double()
    total = q.double() @ weight.double().t() * by
    bound = 10 * U * (total.abs() + b.abs())
    if q.dtype != torch.int8:
        sizes = q.double().abs() @ weight.double().abs().t() * by
        # Hopper keeps about 14 bits of a sum of 8-bit floats.
        bound = bound + (2**-11 if torch.cuda.is_available() else 2.3 * q.shape[1] * U) * sizes
    return ACTIVATIONS[activation](total + b), bound


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    inner=st.integers(1, 550),
    format=st.sampled_from(FORMATS),
    activation=st.sampled_from(sorted(ACTIVATIONS)),
    with_bias=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    tile=st.sampled_from(TILES),
)
def test_it_is_the_product(device, share_of_bound, rows, columns, inner, format, activation, with_bias, dtype, tile):
    given_ = factors(rows, columns, inner, format, seed=inner)
    bias = torch.randn(columns, generator=torch.Generator().manual_seed(rows)).to(dtype) if with_bias else None
    exact, bound = exact_and_bound(*given_, bias, activation)
    config = Config(rows=None, warps=4, **tile)
    assert share_of_bound(run(*on(device, *given_, bias), activation, dtype, config), exact, bound) <= 1
    assert share_of_bound(w8a8(*given_, bias, activation, dtype), exact, bound) <= 1


@pytest.mark.parametrize("programs", [1, 64])
def test_integers_are_added_as_integers(device, programs):
    """Up to 2^24 float32 holds every one; the largest sum of all is a power of two times 127, and fits as well."""
    config = Config(rows=None, warps=4, block_m=16, block_n=16, block_k=1024, programs=programs)
    generator = torch.Generator().manual_seed(0)
    q, weight = eight_bits(5, 800, torch.int8, generator), eight_bits(7, 800, torch.int8, generator, low=-128)
    ones = torch.ones(5), weight, torch.ones(7)
    got = run(*on(device, q, *ones), None, "none", torch.float32, config).cpu()
    assert torch.equal(got.long(), q.long() @ weight.long().t())
    q = torch.full((1, MAX_COLUMNS), 127, dtype=torch.int8)
    weight = torch.full((1, MAX_COLUMNS), -128, dtype=torch.int8)
    got = run(*on(device, q, torch.ones(1), weight, torch.ones(1)), None, "none", torch.float32, config)
    assert got.item() == -127 * 128 * MAX_COLUMNS


def test_splits_give_the_same_bits(device):
    given_ = on(device, *factors(9, 40, 1000, torch.int8))
    results = [
        run(*given_, None, "none", torch.float32, Config(rows=None, warps=4, block_m=16, block_n=16, block_k=64,
                                                         programs=programs))
        for programs in (1, 10, 200)
    ]  # fmt: skip
    assert torch.equal(results[0], results[1]) and torch.equal(results[0], results[2])


@settings(max_examples=15, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 20),
    inner=st.integers(1, 300),
    size=st.sampled_from([1e-25, 1.0, 1e25]),
)
def test_quantization_loses_no_more_than_half_a_step_each(device, rows, columns, inner, size):
    generator = torch.Generator().manual_seed(inner)
    x = (torch.randn(rows, inner, generator=generator) * size).to(torch.bfloat16)
    w = torch.randn(columns, inner, generator=generator)
    values, s = quantize_int8(w)
    q, r = quantize_rows(x)
    config = Config(rows=None, warps=4, **TILES[0])
    got = run(*on(device, q, r, fill_rows(values), s[:, 0]), None, "none", torch.float32, config).double().cpu()
    true = x.double() @ w.double().t()
    half = (0.5 + 508 * U) * r.double()[:, None], (0.5 + 508 * U) * s.double().t()
    lost = half[0] * w.double().abs().sum(dim=1) + half[1] * x.double().abs().sum(dim=1, keepdim=True)
    lost = lost + inner * half[0] * half[1]
    _, bound = exact_and_bound(q, r, fill_rows(values), s[:, 0], None, "none")
    assert ((got - true).abs() <= lost + bound + U * true.abs()).all()


def test_zero_rows_and_rows_that_are_not_finite(device):
    x = torch.randn(5, 50, generator=torch.Generator().manual_seed(0))
    x[1], x[3, 4] = 0, float("nan")
    x[4, 7] = float("inf")
    for format in ("int8", "float8_e4m3fn"):
        q, r = quantize_rows(x, format)
        weight = quantize_rows(torch.randn(9, 50, generator=torch.Generator().manual_seed(1)), format)
        for activation in ACTIVATIONS:
            for tile in TILES:
                got = run(*on(device, q, r, *weight), None, activation, torch.bfloat16,
                          Config(rows=None, warps=4, **tile)).cpu()  # fmt: skip
                assert torch.isnan(got).all(dim=1).tolist() == [False, False, False, True, True]
                assert torch.isfinite(got[:3]).all() and not got[1].any()


def test_the_default_sizes_are_whole():
    classes = read(FOLDER / "default.json")["w8a8"]
    assert [config.rows for config in classes] == [*sorted(config.rows for config in classes[:-1]), None]
    for config in classes:
        assert config.block_m and config.block_n and config.block_k >= 64 and not config.dequantize


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"q": torch.zeros(0, 64, dtype=torch.int8)}, "not empty"),
        ({"q": torch.zeros(2, 64)}, "q is torch.float32"),
        ({"q": torch.zeros(2, 64, dtype=torch.float8_e4m3fn)}, "weight torch.int8; both are int8"),
        ({"q": torch.zeros(2, 48, dtype=torch.int8)}, "of one width"),
        ({"q": torch.zeros(64, 2, dtype=torch.int8).t()}, "in one piece"),
        ({"q": torch.zeros(2, 60, dtype=torch.int8), "weight": torch.zeros(8, 60, dtype=torch.int8)}, "fill_rows"),
        ({"q": torch.zeros(2, MAX_COLUMNS + 16, dtype=torch.int8),
          "weight": torch.zeros(8, MAX_COLUMNS + 16, dtype=torch.int8)}, "use w8a16"),
        ({"weight": torch.zeros(8 * 64, dtype=torch.int8)}, "give \\[out, in\\]"),
        ({"row_scale": torch.ones(2, 1)}, "row_scale is torch.float32 \\[2, 1\\]; give float32 \\[2\\]"),
        ({"row_scale": torch.ones(2, device="meta")}, "move them together"),
        ({"scale": torch.ones(8, dtype=torch.bfloat16)}, "scale is torch.bfloat16"),
        ({"bias": torch.ones(7)}, "bias is \\[7\\]"),
        ({"activation": "tanh"}, "'tanh' is not known"),
        ({"out_dtype": torch.int8}, "out_dtype is torch.int8"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_with_the_fix(change, says):
    good = {"q": torch.zeros(2, 64, dtype=torch.int8), "row_scale": torch.ones(2),
            "weight": torch.zeros(8, 64, dtype=torch.int8), "scale": torch.ones(8), "bias": None}  # fmt: skip
    w8a8(**good)
    with pytest.raises(ValueError, match=says):
        w8a8(**good | change)


def test_pytorch_knows_the_operator(opchecked):
    for activation, dtype in (("none", torch.bfloat16), ("gelu", torch.float32)):
        given_ = factors(3, 16, 70, torch.int8)
        assert opchecked(torch.ops.deshi.w8a8, *given_, torch.randn(16), activation, dtype)

"""Rounding of activations: bit for bit against numpy, norms against float64, and what is not finite."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels.norm_quantize import MAX_COLUMNS, norm_quantize, quantize_rows, require_fp8, run

U = 2**-24
TINY = 2.0**-126
LARGEST = {"int8": 127, "float8_e4m3fn": 448}
UNIT = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 2**-23}  # an ulp: the interpreter cuts off


def drawn(rows, columns, dtype, size=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(rows, columns, generator=generator) * size).to(dtype)


def both(x, *norm, device):
    """By the kernel and by the operator of the CPU."""
    weight, bias, eps, kind, format = norm
    moved = [None if one is None else one.to(device) for one in (x, weight, bias)]
    by_kernel = tuple(one.cpu() for one in run(*moved, eps, kind, format))
    if kind == "none":
        return by_kernel[:2], quantize_rows(x, format)
    return by_kernel, norm_quantize(x, weight, bias, eps, kind, format)


def bits(q):
    return q.view(torch.int8)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 6),
    columns=st.integers(1, 300),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    power=st.integers(-140, 120),
    format=st.sampled_from(sorted(LARGEST)),
)
def test_rows_are_rounded_bit_for_bit(device, rows, columns, dtype, power, format):
    # The interpreter does not read subnormal bfloat16 numbers aright, and float16 has few powers.
    least, greatest = {torch.bfloat16: (-100, 120), torch.float16: (-24, 13), torch.float32: (-140, 120)}[dtype]
    power = max(least, min(power, greatest))
    x = drawn(rows, columns, dtype, 2.0**power, seed=columns)
    wide, largest = x.float().numpy(), np.float32(LARGEST[format])
    a = np.maximum(np.abs(wide).max(axis=1, keepdims=True), largest * np.float32(TINY))
    v = wide * (largest / a)
    wanted = np.rint(v).astype(np.int8) if format == "int8" else in_eighths(v)
    for q, scale in both(x, None, None, 0.0, "none", format, device=device):
        assert q.shape == (rows, columns + -columns % 16) and q.is_contiguous()
        got = q.numpy() if format == "int8" else q.float().numpy()
        np.testing.assert_array_equal(got[:, :columns], wanted)
        assert not bits(q)[:, columns:].any()
        np.testing.assert_array_equal(scale.numpy(), (a / largest)[:, 0])


def in_eighths(v):
    """float8_e4m3fn by its definition: three bits below the leading one, which is 2^-6 or more."""
    unit = 2.0 ** (np.maximum(np.floor(np.log2(np.maximum(np.abs(v.astype(np.float64)), 1e-30))), -6) - 3)
    return (np.rint(v.astype(np.float64) / unit) * unit).astype(np.float32)


def test_halves_go_to_the_even_integer(device):
    x = torch.cat([torch.arange(-126.5, 127), torch.tensor([127.0])])[None]
    for q, scale in both(x, None, None, 0.0, "none", "int8", device=device):
        assert scale.tolist() == [1.0]
        np.testing.assert_array_equal(q[0, : x.shape[1]].numpy(), np.rint(x[0].numpy()))


def test_every_8_bit_float_stays_itself(device):
    every = torch.arange(256).to(torch.uint8).view(torch.float8_e4m3fn).float()
    x = every[torch.isfinite(every)][None]
    for q, scale in both(x, None, None, 0.0, "none", "float8_e4m3fn", device=device):
        assert scale.tolist() == [1.0]
        assert torch.equal(q.float()[:, : x.shape[1]], x)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 4),
    columns=st.integers(1, 200),
    dtype=st.sampled_from([torch.bfloat16, torch.float16, torch.float32]),
    kind=st.sampled_from(["rms", "layer"]),
    with_weight=st.booleans(),
    with_bias=st.booleans(),
    away=st.sampled_from([0.0, 3.0]),
    format=st.sampled_from(sorted(LARGEST)),
)
def test_the_norm_and_its_rounding_keep_their_bounds(
    device, rows, columns, dtype, kind, with_weight, with_bias, away, format
):
    x = (drawn(rows, columns, torch.float32, seed=rows) + away).to(dtype)
    weight = drawn(1, columns, dtype, seed=1)[0] if with_weight else None
    bias = drawn(1, columns, dtype, seed=2)[0] if with_bias else None
    eps = 1e-5
    d = x.double()
    d = d - d.mean(dim=1, keepdim=True) if kind == "layer" else d
    inverse = (d.square().mean(dim=1, keepdim=True) + eps) ** -0.5
    w = torch.ones(columns).double() if weight is None else weight.double()
    b = torch.zeros(columns).double() if bias is None else bias.double()
    y = d * inverse * w + b
    # The mean's own error is that of a sum of so many, and shifts every element.
    shift = (columns + 2) * U * x.double().abs().mean(dim=1, keepdim=True) if kind == "layer" else torch.zeros(rows, 1)
    bound = (inverse * w).abs() * (shift + d.abs() * ((columns + 12) * U + (shift * inverse) ** 2)) + 2 * U * y.abs()
    bound = bound + 2 * U * b.abs()
    for q, scale, normed in both(x, weight, bias, eps, kind, format, device=device):
        assert normed.dtype == dtype and normed.shape == x.shape
        unit = UNIT[dtype] * y.abs() + torch.finfo(dtype).tiny
        assert ((normed.double() - y).abs() <= bound + unit).all()
        s = scale.double()[:, None]
        most = y.abs().amax(dim=1, keepdim=True)
        assert ((s * LARGEST[format] - most).abs() <= bound.amax(dim=1, keepdim=True) + 2 * U * most + TINY * 448).all()
        step = s * (0.5 + 508 * U) if format == "int8" else y.abs() / 16 + s / 1024 + 4 * U * y.abs()
        assert ((q.double()[:, :columns] * s - y).abs() <= step + 1.07 * bound).all()
        assert not bits(q)[:, columns:].any()


def test_the_norms_are_those_of_pytorch(device):
    x, weight, bias = (
        drawn(3, 1000, torch.float32),
        drawn(1, 1000, torch.float32, seed=1)[0],
        drawn(1, 1000, torch.float32),
    )
    wanted = torch.nn.functional.layer_norm(x, [1000], weight, bias[0], 1e-5)
    for _, _, normed in both(x, weight, bias[0], 1e-5, "layer", "int8", device=device):
        torch.testing.assert_close(normed, wanted)
    wanted = torch.nn.functional.rms_norm(x, [1000], weight, 1e-6)
    for _, _, normed in both(x, weight, None, 1e-6, "rms", "int8", device=device):
        torch.testing.assert_close(normed, wanted)


def test_zeros_and_tiny_rows(device):
    x = torch.zeros(3, 20)
    x[1, 3], x[2, 5] = 1e-44, -1e-37
    for format in LARGEST:
        for q, scale in both(x, None, None, 0.0, "none", format, device=device):
            assert scale.min() == TINY and torch.isfinite(scale).all()
            assert not bits(q)[0].any()
            assert ((q.double()[:, :20] * scale.double()[:, None] - x.double()).abs() <= TINY).all()
    for _, scale, normed in both(x, None, None, 0.0, "layer", "int8", device=device):
        assert torch.isnan(scale[0]) and torch.isnan(normed[0]).all()  # 0 / 0, as eps is 0
    for q, scale, normed in both(x, None, None, 1e-6, "layer", "int8", device=device):
        assert not q[0].any() and scale[0] == TINY and not normed[0].any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", ["none", "rms", "layer"])
def test_what_is_not_finite_stays_in_its_row(device, kind, poison):
    x = drawn(4, 50, torch.bfloat16)
    x[2, 7] = poison
    for format in LARGEST:
        for q, scale, *normed in both(x, None, None, 1e-6, kind, format, device=device):
            assert torch.isnan(scale).tolist() == [False, False, True, False]
            assert not bits(q)[2].any() and bits(q)[[0, 1, 3]].any(dim=1).all()
            for y in normed:
                assert torch.isfinite(y).all(dim=1).tolist() == [True, True, False, True]


def test_squares_beyond_float32_are_not_zeros(device):
    x = torch.ones(2, 8)
    x[1] = torch.linspace(-1e20, 1e20, 8)
    for kind in ("rms", "layer"):
        for _, scale, normed in both(x, None, None, 1.0, kind, "int8", device=device):
            assert torch.isnan(scale).tolist() == [False, True] and torch.isnan(normed[1]).all()


def test_rows_of_x_may_lie_apart(device):
    wide = drawn(3, 300, torch.bfloat16)
    for (q, scale), (alone, alone_scale) in zip(
        both(wide[:, 100:217], None, None, 0.0, "none", "int8", device=device),
        both(wide[:, 100:217].contiguous(), None, None, 0.0, "none", "int8", device=device),
        strict=True,
    ):
        assert torch.equal(q, alone) and torch.equal(scale, alone_scale)


def test_kind_none_gives_x_back():
    x = drawn(3, 40, torch.bfloat16)
    q, scale, y = norm_quantize(x, None, None, 0.0, "none")
    assert y is x
    assert torch.equal(q, quantize_rows(x)[0]) and torch.equal(scale, quantize_rows(x)[1])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(2, 64, dtype=torch.float64)}, "x is torch.float64"),
        ({"x": torch.zeros(0, 64)}, "not empty"),
        ({"x": torch.zeros(64, 2).t()}, "contiguous"),
        ({"x": torch.zeros(1, MAX_COLUMNS["rms"] + 1), "norm_weight": None}, "at most 16384"),
        ({"kind": "batch"}, "'batch' is not known"),
        ({"kind": "none"}, "norm_weight is given"),
        ({"format": "int4"}, "'int4' is not known"),
        ({"norm_weight": torch.zeros(63)}, "give floats \\[64\\]"),
        ({"norm_bias": torch.zeros(64, dtype=torch.int32)}, "norm_bias is torch.int32"),
        ({"norm_weight": torch.zeros(64, device="meta")}, "move them together"),
        ({"eps": -1.0}, "eps = -1.0"),
        ({"eps": float("nan")}, "eps = nan"),
    ],
)
def test_bad_input_is_refused_with_the_fix(change, says):
    good = {"x": torch.zeros(2, 64), "norm_weight": torch.ones(64), "norm_bias": None, "eps": 1e-6, "kind": "rms"}
    norm_quantize(**good)
    with pytest.raises(ValueError, match=says):
        norm_quantize(**good | change)


def test_old_cards_have_no_8_bit_floats():
    require_fp8((8, 9))
    require_fp8((9, 0))
    with pytest.raises(ValueError, match=r"this card has 8\.6; use int8"):
        require_fp8((8, 6))


def test_pytorch_knows_the_operators(opchecked):
    x = drawn(3, 37, torch.bfloat16)
    weight = drawn(1, 37, torch.bfloat16)[0]
    assert opchecked(torch.ops.deshi.quantize_rows, x, "int8")
    assert opchecked(torch.ops.deshi.norm_quantize, x, weight, weight, 1e-6, "layer", "int8")
    assert opchecked(torch.ops.deshi.norm_quantize, x, weight, None, 1e-6, "rms", "int8")

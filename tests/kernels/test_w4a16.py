"""4-bit weights against float64: every group, ragged shapes, bias and activation, extreme scales, zeros, NaN."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels import w4a16 as kernel
from deshi.kernels.packing import interleave
from deshi.kernels.round_to_nearest import Format, quantize
from deshi.kernels.tuning import Config
from deshi.kernels.w4a16 import run, w4a16
from deshi.kernels.weight_only import reference

U = 2**-24
LIPSCHITZ = {"none": 1, "relu": 1, "gelu": 1.13, "silu": 1.1}
TILES = (
    {"block_m": 8, "block_n": 16, "programs": 64},
    {"block_m": 16, "block_n": 32, "programs": 1},
    {"block_n": 16, "dequantize": True},
)


def weights(rows, columns, group, symmetric, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * scale
    return quantize(weight, Format(bits=4, group_size=group, symmetric=symmetric))


def stored(quantized, device):
    zero = quantized.zero_point
    return (
        interleave(quantized.values).to(device),
        quantized.scale.t().contiguous().to(device),
        None if zero is None else zero.t().contiguous().to(device),
    )


def exact_and_bound(x, quantized, bias, activation):
    """The product in float64, and what the docstring of weight_only.py allows beside the rounding of the result."""
    scale, zero = quantized.scale.t().double(), quantized.zero_point
    zero = None if zero is None else zero.t()
    b = None if bias is None else bias.double()
    exact = reference(x.double(), quantized.values, scale, zero, b, activation)
    size = reference(x.double().abs(), quantized.dequantized().abs(), torch.ones(1, len(scale[0])).double(), None,
                     None if b is None else b.abs(), "none")  # fmt: skip
    return exact, LIPSCHITZ[activation] * (x.shape[1] + len(scale) + 16 + 2) * 2 * U * size


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 40),
    blocks=st.integers(1, 9),
    ragged=st.integers(1, 200),
    group=st.sampled_from([32, 64, 128, None]),
    symmetric=st.booleans(),
    activation=st.sampled_from(sorted(LIPSCHITZ)),
    with_bias=st.booleans(),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
    tile=st.sampled_from(TILES),
)
def test_it_is_the_product(
    device, within, rows, columns, blocks, ragged, group, symmetric, activation, with_bias, dtype, tile
):
    inner = ragged if group is None else group * blocks
    quantized = weights(columns, inner, group, symmetric)
    generator = torch.Generator().manual_seed(rows)
    x = torch.randn(rows, inner, generator=generator).to(dtype)
    bias = torch.randn(columns, generator=generator).to(dtype) if with_bias else None
    exact, bound = exact_and_bound(x, quantized, bias, activation)
    on_device = None if bias is None else bias.to(device)
    config = Config(rows=None, warps=4, **tile)
    got = run(x.to(device), *stored(quantized, device), on_device, activation, config)
    if "dequantize" in tile:  # the whole weight is rounded to 16 bits once more
        of_weight = reference(x.double().abs(), quantized.dequantized().abs(), torch.ones(1, columns).double(), None,
                              None, "none")  # fmt: skip
        bound = bound + 1.13 * 3 * torch.finfo(dtype).eps * of_weight
    within(got, exact, bound)
    within(w4a16(x, *stored(quantized, "cpu"), bias, activation), exact, bound)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e4])
def test_scales_may_be_extreme(device, within, size):
    quantized = weights(24, 128, 64, True, scale=size)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    exact, bound = exact_and_bound(x, quantized, None, "none")
    config = Config(rows=None, warps=4, block_m=16, block_n=32)
    within(run(x.to(device), *stored(quantized, device), None, "none", config), exact, bound)


def test_zeros_stay_zeros(device):
    quantized = quantize(torch.zeros(8, 64), Format(bits=4, group_size=32))
    config = Config(rows=None, warps=4, block_m=8, block_n=16)
    x = torch.ones(2, 64, dtype=torch.bfloat16, device=device)
    assert not run(x, *stored(quantized, device), None, "none", config).any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_in_its_row(device, poison):
    quantized = weights(24, 256, 128, True)
    x = torch.randn(4, 256, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    x[2, 77] = poison
    for tile in TILES:
        config = Config(rows=None, warps=4, **tile)
        got = run(x.to(device), *stored(quantized, device), None, "none", config)
        finite = torch.isfinite(got).all(dim=1).tolist()
        assert finite == [True, True, False, True]
        # 0 times infinity is no number: where a weight is 0, the output is NaN and not a finite one.
        assert not torch.isfinite(got[2]).any()


def test_the_conversion_in_ptx_is_the_conversion():
    """The assembler text, executed instruction by instruction, makes every pair of 16-bit floats."""
    words = torch.randint(-(2**31), 2**31, (64,), generator=torch.Generator().manual_seed(0)).tolist()
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        for first, second in zip(words[::2], words[1::2], strict=True):
            registers = executed(kernel.PAIRS[name], {"$8": first & 0xFFFFFFFF, "$9": second & 0xFFFFFFFF})
            for j in range(8):
                pair = torch.tensor([registers[f"${j}"] & 0xFFFF, registers[f"${j}"] >> 16], dtype=torch.int32)
                made = pair.to(torch.uint16).view(dtype).tolist()
                wanted = [kernel.OFFSET[name] + ((word >> 4 * j) & 15) for word in (first, second)]
                assert made == wanted


def executed(ptx, registers):
    """Runs the three instructions that the text is made of."""
    for line in ptx.strip("{} \n").splitlines():
        if not line or line.startswith(".reg"):
            continue
        name, _, rest = line.rstrip(";").partition(" ")
        target, *sources = [part.strip() for part in rest.split(",")]
        values = [registers[one] if one in registers else int(one, 0) for one in sources]
        if name == "prmt.b32":
            several = [(values[0] | values[1] << 32) >> 8 * i & 0xFF for i in range(8)]
            registers[target] = sum(several[values[2] >> 4 * i & 0xF] << 8 * i for i in range(4))
        elif name == "shr.u32":
            registers[target] = values[0] >> values[1]
        elif name == "lop3.b32":
            a, b, c, table = values
            bits = ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32))
            registers[target] = sum((table >> index & 1) << i for i, index in enumerate(bits))
        else:
            raise AssertionError(f"{name} is not executed here")
    return registers


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(2, 64, dtype=torch.int32)}, "x is torch.int32"),
        ({"x": torch.zeros(0, 64, dtype=torch.bfloat16)}, "not empty"),
        ({"x": torch.zeros(64, 2, dtype=torch.bfloat16).t()}, "contiguous"),
        ({"x": torch.zeros(2, 200, dtype=torch.bfloat16)}, "the weight's width|do not divide"),
        ({"words": torch.zeros(1, 8, 8, dtype=torch.int32)}, "interleave"),
        ({"scale": torch.ones(8, 2)}, "float32 \\[groups, 8\\]"),
        ({"scale": torch.ones(2, 8, dtype=torch.float16)}, "scale is torch.float16"),
        ({"scale": torch.ones(3, 8)}, "3 groups do not divide 64"),
        ({"zero": torch.zeros(2, 4, dtype=torch.int8)}, "zero"),
        ({"bias": torch.zeros(7)}, "bias is \\[7\\]"),
        ({"activation": "tanh"}, "'tanh' is not known"),
        ({"scale": torch.ones(2, 8, device="meta")}, "move them together"),
    ],
)
def test_bad_input_is_refused_with_the_fix(change, says):
    good = {"x": torch.zeros(2, 64, dtype=torch.bfloat16), "words": torch.zeros(1, 8, 16, dtype=torch.int32),
            "scale": torch.ones(2, 8), "zero": None, "bias": None, "activation": "none"}  # fmt: skip
    w4a16(**good)
    with pytest.raises(ValueError, match=says):
        w4a16(**good | change)


def test_pytorch_knows_the_operator():
    quantized = weights(16, 64, 32, False)
    x = torch.randn(3, 64).to(torch.bfloat16)
    for activation in ("none", "gelu"):
        torch.library.opcheck(torch.ops.deshi.w4a16, (x, *stored(quantized, "cpu"), None, activation))

"""8-bit weights against float64: every group, ragged shapes, bias and activation, extreme scales, zeros, NaN."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels import w8a16 as kernel
from deshi.kernels.packing import fill_rows
from deshi.kernels.round_to_nearest import Format, quantize
from deshi.kernels.tuning import FOLDER, Config, read
from deshi.kernels.w8a16 import run, w8a16

U = 2**-24
LIPSCHITZ = {"none": 1, "relu": 1, "gelu": 1.13, "silu": 1.1}
ACTIVATIONS = {"none": lambda y: y, "relu": torch.relu, "gelu": torch.nn.functional.gelu,
               "silu": torch.nn.functional.silu}  # fmt: skip
TILES = (
    {"block_m": 8, "block_n": 16, "block_k": 32, "programs": 64},
    {"block_m": 16, "block_n": 32, "block_k": 128, "programs": 1},
    {"block_n": 16, "block_k": 64, "dequantize": True},
)


def weights(rows, columns, group, symmetric, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * scale
    return quantize(weight, Format(bits=8, group_size=group, symmetric=symmetric))


def stored(quantized, device):
    zero = quantized.zero_point
    return (
        fill_rows(quantized.values).to(device),
        quantized.scale.t().contiguous().to(device),
        None if zero is None else zero.t().contiguous().to(device),
    )


def exact_and_bound(x, quantized, bias, activation):
    """The product in float64, and what the docstring of weight_only.py allows beside the rounding of the result."""
    groups = quantized.scale.shape[1]
    each = quantized.values.shape[1] // groups
    weight = quantized.values.double()
    if quantized.zero_point is not None:
        weight = weight - quantized.zero_point.double().repeat_interleave(each, dim=1)
    weight = weight * quantized.scale.double().repeat_interleave(each, dim=1)
    b = torch.zeros(len(weight)) if bias is None else bias
    exact = ACTIVATIONS[activation](x.double() @ weight.t() + b.double())
    size = x.double().abs() @ weight.abs().t() + b.double().abs()
    return exact, LIPSCHITZ[activation] * (x.shape[1] + groups + 16 + 2) * 2 * U * size


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 20),
    columns=st.integers(1, 40),
    blocks=st.integers(1, 9),
    ragged=st.integers(1, 300),
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
    within(w8a16(x, *stored(quantized, "cpu"), bias, activation), exact, bound)
    if "dequantize" in tile:  # the whole weight, and the product before bias and activation, are rounded to 16 bits
        size = x.double().abs() @ quantized.dequantized().double().abs().t()
        bound = bound + 1.13 * 3 * torch.finfo(dtype).eps * size
    within(got, exact, bound)


def test_every_integer_is_exact(device):
    """All 256 values against all zero points at the edges, a one at a time, and no rounding anywhere."""
    values = torch.arange(-128, 128).to(torch.int8).repeat(5, 1)
    zero = torch.tensor([[-128, -1, 0, 1, 127]], dtype=torch.int8)
    x = torch.eye(256).to(torch.bfloat16)
    config = Config(rows=None, warps=4, block_m=16, block_n=16, block_k=128)
    for zeros in (zero, None):
        wanted = (values.float() - (0 if zeros is None else zeros.t().float())).t()
        got = run(x.to(device), fill_rows(values).to(device), torch.ones(1, 5, device=device),
                  None if zeros is None else zeros.to(device), None, "none", config)  # fmt: skip
        assert torch.equal(got.float().cpu(), wanted)


@pytest.mark.parametrize("size", [1e-30, 1e-6, 1e4])
def test_scales_may_be_extreme(device, within, size):
    quantized = weights(24, 128, 64, True, scale=size)
    x = torch.randn(3, 128, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    exact, bound = exact_and_bound(x, quantized, None, "none")
    config = Config(rows=None, warps=4, block_m=16, block_n=32, block_k=128)
    within(run(x.to(device), *stored(quantized, device), None, "none", config), exact, bound)


def test_zeros_stay_zeros(device):
    quantized = quantize(torch.zeros(8, 64), Format(bits=8, group_size=32))
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
        assert torch.isfinite(got).all(dim=1).tolist() == [True, True, False, True]
        # 0 times infinity is no number: where a weight is 0, the output is NaN and not a finite one.
        assert not torch.isfinite(got[2]).any()


def test_rows_of_x_may_lie_apart(device, within):
    quantized = weights(24, 128, 64, True)
    wide = torch.randn(3, 300, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
    exact, bound = exact_and_bound(wide[:, 100:228], quantized, None, "none")
    config = Config(rows=None, warps=4, block_m=16, block_n=32)
    within(run(wide.to(device)[:, 100:228], *stored(quantized, device), None, "none", config), exact, bound)


def test_the_conversion_in_ptx_is_the_conversion():
    """The assembler text, executed instruction by instruction, makes every pair of 16-bit floats."""
    for first in range(0, 256, 2):
        octets = [first, 255 - first, first + 1, (first * 7) % 256]
        word = sum(octet << 8 * i for i, octet in enumerate(octets))
        for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
            registers = executed(kernel.BYTES_TO_FLOATS[name], {"$2": word}, dtype)
            made = [value for j in range(2) for value in pair(registers[f"${j}"], dtype).tolist()]
            assert made == [octet - 256 if octet > 127 else octet for octet in octets]


def pair(register, dtype):
    halves = torch.tensor([register & 0xFFFF, register >> 16], dtype=torch.int32)
    return halves.to(torch.uint16).view(dtype)


def executed(ptx, registers, dtype):
    """Runs the instructions that the text is made of; a sum of 16-bit floats is rounded once, as fma does it."""
    for line in ptx.strip("{} \n").splitlines():
        if not line or line.startswith(".reg"):
            continue
        name, _, rest = line.rstrip(";").partition(" ")
        target, *sources = [part.strip() for part in rest.split(",")]
        values = [registers[one] if one in registers else int(one, 0) for one in sources]
        if name == "mov.b32":
            registers[target] = values[0]
        elif name == "prmt.b32":
            several = [(values[0] | values[1] << 32) >> 8 * i & 0xFF for i in range(8)]
            registers[target] = sum(several[values[2] >> 4 * i & 0xF] << 8 * i for i in range(4))
        elif name in ("and.b32", "xor.b32"):
            registers[target] = values[0] & values[1] if name == "and.b32" else values[0] ^ values[1]
        elif name in ("fma.rn.bf16x2", "sub.f16x2"):
            a, b, *c = (pair(value, dtype).double() for value in values)
            bits = (a * b + c[0] if c else a - b).to(dtype).view(torch.int16).tolist()
            registers[target] = (bits[0] & 0xFFFF) | (bits[1] & 0xFFFF) << 16
        else:
            raise AssertionError(f"{name} is not executed here")
    return registers


def test_the_default_sizes_are_whole():
    classes = read(FOLDER / "default.json")["w8a16"]
    assert [config.rows for config in classes] == [*sorted(config.rows for config in classes[:-1]), None]
    for config in classes:
        assert config.block_k and config.block_n and (config.dequantize or config.block_m)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"x": torch.zeros(2, 64, dtype=torch.int32)}, "x is torch.int32"),
        ({"x": torch.zeros(0, 64, dtype=torch.bfloat16)}, "not empty"),
        ({"x": torch.zeros(64, 2, dtype=torch.bfloat16).t()}, "contiguous"),
        ({"x": torch.zeros(2, 96, dtype=torch.bfloat16), "scale": torch.ones(3, 8)}, "filled up to 96"),
        ({"weight": torch.zeros(8, 64, dtype=torch.uint8)}, "fill_rows"),
        ({"weight": torch.zeros(64, 8, dtype=torch.int8).t()}, "fill_rows"),
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
    good = {"x": torch.zeros(2, 64, dtype=torch.bfloat16), "weight": torch.zeros(8, 64, dtype=torch.int8),
            "scale": torch.ones(2, 8), "zero": None, "bias": None, "activation": "none"}  # fmt: skip
    w8a16(**good)
    with pytest.raises(ValueError, match=says):
        w8a16(**good | change)


def test_pytorch_knows_the_operator():
    for group, columns in ((32, 64), (None, 37)):
        quantized = weights(16, columns, group, False)
        x = torch.randn(3, columns).to(torch.bfloat16)
        for activation in ("none", "gelu"):
            torch.library.opcheck(torch.ops.deshi.w8a16, (x, *stored(quantized, "cpu"), None, activation))

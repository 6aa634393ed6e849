"""The int8 cache against float64: ragged rows, shared heads, any head size, splits, extreme scales, zeros, NaN."""

import runpy
import struct
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels import kv_decode, kv_int8, kv_write
from deshi.kernels.tuning import Config

PTX = runpy.run_path(str(Path(__file__).with_name("ptx.py")))

U = 2**-24
P = 2**-8 if torch.cuda.is_available() else 2**-7  # of rounding to bfloat16, which the interpreter cuts
DTYPES = [torch.bfloat16, torch.float16]


def empty(slots, kv_heads, context, size):
    """The four tensors of a layer."""
    shape = (slots, kv_heads, context)
    return [torch.zeros(*shape, size, dtype=torch.int8), torch.zeros(shape),
            torch.zeros(*shape, size, dtype=torch.int8), torch.zeros(shape)]  # fmt: skip


def tokens(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def filled(slots, kv_heads, context, size, seed=0):
    """A cache whose every position holds a token; scales differ by a hundred."""
    generator = torch.Generator().manual_seed(seed)
    cache = empty(slots, kv_heads, context, size)
    for q, scale in (cache[:2], cache[2:]):
        q.random_(-127, 128, generator=generator)
        scale.copy_(torch.rand(scale.shape, generator=generator) * 0.02 + 2e-4)
    return cache


def exact_and_bound(query, cache, lengths, scaling):
    """Attention over the dequantized cache in float64, and what the docstring allows beside the rounding of y."""
    keys, values = (q.double() * scale.double()[..., None] for q, scale in (cache[:2], cache[2:]))
    exact, bound = torch.zeros(2, *query.shape, dtype=torch.float64)
    group, size = query.shape[1] // keys.shape[1], query.shape[2]
    for row, length in enumerate(lengths.tolist()):
        length = min(length, keys.shape[2])
        for head in range(query.shape[1] if length else 0):
            k, v, q = keys[row, head // group, :length], values[row, head // group, :length], query[row, head].double()
            p = torch.softmax(k @ q * scaling, 0)
            a = float((k.abs() @ q.abs()).max()) * scaling
            exact[row, head] = p @ v
            bound[row, head] = (8 * (size + 8) * U * a + 4 * (length + 32) * U) * (p @ v.abs())
            bound[row, head] += P * (p @ v.abs())
    return exact, bound


def run(query, cache, lengths, scaling, device, **sizes):
    config = Config(rows=None, warps=1, **{"block_n": 16, "programs": 1, **sizes})
    at = [one.to(device) for one in (query, *cache, lengths)]
    return kv_decode.run(*at, scaling, config)


@settings(max_examples=30, deadline=None)
@given(
    slots=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.sampled_from([1, 2, 3, 7, 17]),
    size=st.sampled_from([16, 17, 22, 24, 64, 80, 128, 256]),
    context=st.integers(1, 90),
    share=st.floats(0, 1.2),
    dtype=st.sampled_from(DTYPES),
    programs=st.sampled_from([1, 8, 64]),
    index=st.sampled_from([torch.int32, torch.int64]),
    seed=st.integers(0, 99),
)
def test_it_is_the_attention(
    device, share_of_bound, slots, kv_heads, group, size, context, share, dtype, programs, index, seed
):
    cache = filled(slots, kv_heads, context, size, seed)
    n = 1 + seed % slots
    query = tokens(n, kv_heads * group, size, seed=seed, dtype=dtype)
    lengths = (torch.rand(n, generator=torch.Generator().manual_seed(seed)) * share * context).to(index)
    exact, bound = exact_and_bound(query, cache, lengths, size**-0.5)
    assert share_of_bound(run(query, cache, lengths, size**-0.5, device, programs=programs), exact, bound) <= 1
    assert share_of_bound(kv_int8.decode(query, *cache, lengths, size**-0.5), exact, bound) <= 1


@pytest.mark.parametrize("programs", [1, 4, 1024])
@pytest.mark.parametrize("block_n", [16, 32])
def test_the_splits_add_up(device, share_of_bound, programs, block_n):
    """Rows of 0, 1, a tile and all tokens, in fewer and in more splits than tiles; none is longer than the context."""
    cache = filled(5, 1, 300, 16)
    query, lengths = tokens(5, 2, 16, dtype=torch.bfloat16), torch.tensor([0, 1, 32, 300, 1000])
    got = run(query, cache, lengths, 0.25, device, programs=programs, block_n=block_n)
    assert share_of_bound(got, *exact_and_bound(query, cache, lengths, 0.25)) <= 1
    assert not got[0].any()


def test_how_many_splits_there_are_is_said_by_shapes():
    config = Config(rows=None, warps=1, block_n=32, programs=1024)
    assert [kv_decode.splits(n, 8, 8192, config) for n in (1, 2, 16, 64, 200)] == [64, 64, 8, 2, 1]
    assert [kv_decode.splits(1, 1, context, config) for context in (1, 32, 64, 4096)] == [1, 1, 2, 64]


@settings(max_examples=30, deadline=None)
@given(
    kv_heads=st.integers(1, 3),
    new=st.integers(1, 19),
    size=st.sampled_from([16, 17, 24, 64, 80, 256]),
    dtype=st.sampled_from(DTYPES),
    magnitude=st.sampled_from([1.0, 1e-6, 1e4]),
    seed=st.integers(0, 99),
)
def test_what_is_stored_is_half_a_step_off_at_most(device, kv_heads, new, size, dtype, magnitude, seed):
    """In its place, and nothing else is touched; as transformers lays new tokens out, [n, new, heads, D] transposed."""
    states = tokens(2, 2, new, kv_heads, size, seed=seed).mul(magnitude).to(dtype).transpose(2, 3)
    context = 24
    positions = torch.stack(
        [torch.randperm(context, generator=torch.Generator().manual_seed(seed + i)) for i in (0, 1)]
    )
    positions = positions[:, :new].contiguous()
    positions[0, 0], positions[1, new - 1] = -1, context + 3  # neither is stored
    before = filled(3, kv_heads, context, size, seed)
    stored, cache = [one.clone() for one in before], [one.clone().to(device) for one in before]
    kv_int8.write(*states, *stored, 1, positions)
    kv_write.run(*states.to(device), *cache, 1, positions.to(device))
    for mine, reference in zip(cache, stored, strict=True):
        assert torch.equal(mine.cpu(), reference)
    touched = torch.zeros(3, context, dtype=torch.bool)
    for new_states, q, scale in zip(states.double(), stored[::2], stored[1::2], strict=True):
        for row, at in enumerate(positions.tolist()):
            for token, position in enumerate(at):
                if 0 <= position < context:
                    touched[1 + row, position] = True
                    s = scale[1 + row, :, position].double()
                    k = new_states[row, :, token]
                    torch.testing.assert_close(s, k.abs().amax(-1) / 127, rtol=2e-7, atol=2e-38)
                    error = (q[1 + row, :, position].double() * s[:, None] - k).abs()
                    assert (error <= s[:, None] / 2 * (1 + 2**-15)).all()
    for after, was in zip(stored, before, strict=True):
        assert torch.equal(after.transpose(1, 2)[~touched], was.transpose(1, 2)[~touched])


@pytest.mark.parametrize("size", [1e-30, 1e-4, 1e25])
def test_scales_may_be_extreme(device, share_of_bound, size):
    cache = filled(2, 2, 40, 32)
    cache[3] *= size  # of values
    cache[1] *= size  # of keys, and the queries the other way
    query, lengths = tokens(2, 4, 32, dtype=torch.bfloat16), torch.tensor([40, 7])
    exact, bound = exact_and_bound(query, cache, lengths, 1 / size)
    assert share_of_bound(run(query, cache, lengths, 1 / size, device), exact, bound) <= 1


def test_a_token_of_zeros_is_stored_and_takes_its_share(device, share_of_bound):
    cache = empty(1, 1, 4, 16)
    states = torch.zeros(1, 1, 4, 16, dtype=torch.bfloat16)
    values = states.clone()
    values[0, 0, 3] = 8.0
    kv_write.run(states.to(device), values.to(device), *(on := [one.to(device) for one in cache]), 0,
                 torch.arange(4)[None].to(device))  # fmt: skip
    assert all(bool(torch.isfinite(scale).all()) and float(scale.min()) > 0 for scale in on[1::2])
    y = run(tokens(1, 2, 16, dtype=torch.bfloat16), on, torch.tensor([4]), 1.0, device)
    assert share_of_bound(y, torch.full((1, 2, 16), 2.0, dtype=torch.float64), P * 2) <= 1


@pytest.mark.parametrize("poison", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("which", [0, 1])
def test_what_is_not_finite_stays_in_its_row_and_head(device, poison, which):
    """Keys or values; and no longer than the token is within the row."""
    states = [tokens(3, 2, 24, 24, seed=seed, dtype=torch.bfloat16) for seed in (0, 1)]
    states[which][1, 0, 10, 5] = poison
    query = tokens(3, 4, 24, dtype=torch.bfloat16)
    positions = torch.arange(24).repeat(3, 1)
    for programs in (1, 12):
        cache = [one.to(device) for one in empty(3, 2, 24, 24)]
        kv_write.run(*(one.to(device) for one in states), *cache, 0, positions.to(device))
        reference = empty(3, 2, 24, 24)
        kv_int8.write(*states, *reference, 0, positions)
        for lengths, whole in (([24, 24, 24], False), ([24, 10, 24], True)):
            lengths = torch.tensor(lengths)
            for got in (
                run(query, cache, lengths, 0.2, device, programs=programs).cpu(),
                kv_int8.decode(query, *reference, lengths, 0.2),
            ):
                wrong = ~torch.isfinite(got)
                assert wrong[1, :2].all() != whole and not wrong[1, 2:].any() and not wrong[[0, 2]].any()


@pytest.mark.parametrize("poison", [float("nan"), float("inf")])
def test_a_query_that_is_not_finite_stays_in_its_head(device, poison):
    query = tokens(2, 4, 16, dtype=torch.bfloat16)
    query[1, 2, 3] = poison
    for programs in (1, 64):
        got = run(query, filled(2, 2, 40, 16), torch.tensor([40, 40]), 0.2, device, programs=programs)
        wrong = ~torch.isfinite(got)
        assert wrong[1, 2].all() and int(wrong.sum()) == 16


def test_the_conversion_in_ptx_is_the_conversion():
    """The assembler text, executed instruction by instruction, makes every int8, two words at a time."""
    every = list(range(-128, 128))
    for name, dtype in (("bf16", torch.bfloat16), ("fp16", torch.float16)):
        for at in range(0, 256, 4):
            first, second = every[at : at + 4], every[-at - 4 : 256 - at]
            words = [int.from_bytes(struct.pack("4b", *four), "little") for four in (first, second)]
            registers = PTX["executed"](kv_decode.PAIRS[name], {"$4": words[0], "$5": words[1]}, dtype)
            for j in range(4):
                assert PTX["pair"](registers[f"${j}"], dtype).tolist() == [first[j], second[j]]


BF16 = torch.bfloat16


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"query": torch.zeros(1, 4, 16, dtype=torch.int32)}, "query is torch.int32"),
        ({"query": torch.zeros(3, 4, 16, dtype=BF16)}, "n from 1 to the cache's 2"),
        ({"query": torch.zeros(1, 4, 17, dtype=BF16)}, r"give \[n, heads, 16\]"),
        ({"query": torch.zeros(1, 16, 4, dtype=BF16).transpose(1, 2)}, "in one piece"),
        ({"query": torch.zeros(1, 3, 16, dtype=BF16)}, "3 query heads do not share 2"),
        ({"lengths": torch.zeros(2, dtype=torch.int64)}, r"give one a row, \[1\]"),
        ({"lengths": torch.zeros(1)}, "give int32 or int64"),
        ({"keys": torch.zeros(2, 2, 8, 16)}, "keys are torch.float32"),
        ({"values": torch.zeros(2, 2, 9, 16, dtype=torch.int8), "value_scale": torch.ones(2, 2, 9)}, "make them alike"),
        ({"key_scale": torch.ones(2, 2, 9)}, r"float32 \[2, 2, 8\]"),
        ({"value_scale": torch.ones(2, 2, 8, device="meta")}, "several devices"),
    ],
)
def test_bad_input_of_decode_is_refused_with_the_fix(change, says):
    keys, key_scale, values, value_scale = empty(2, 2, 8, 16)
    good = {"query": torch.zeros(1, 4, 16, dtype=BF16), "keys": keys, "key_scale": key_scale, "values": values,
            "value_scale": value_scale, "lengths": torch.ones(1, dtype=torch.int64), "scaling": 1.0}  # fmt: skip
    kv_int8.decode(**good)
    with pytest.raises(ValueError, match=says):
        kv_int8.decode(**good | change)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"keys_new": torch.zeros(1, 2, 4, 16, dtype=BF16)}, r"keys_new is \[1, 2, 4, 16\]"),
        ({"values_new": torch.zeros(1, 2, 3, 16, dtype=torch.float16)}, "cast one"),
        ({"values_new": torch.zeros(1, 2, 3, 16, dtype=torch.int8)}, "values_new is torch.int8"),
        ({"positions": torch.zeros(1, 3)}, "positions are torch.float32"),
        ({"positions": torch.zeros(3, dtype=torch.int64)}, "one a token"),
        ({"first_row": 2}, r"rows \[2, 3\) are not within"),
        ({"first_row": -1}, r"rows \[-1, 0\) are not within"),
    ],
)
def test_bad_input_of_write_is_refused_with_the_fix(change, says):
    keys, key_scale, values, value_scale = empty(2, 2, 8, 16)
    new = torch.zeros(1, 2, 3, 16, dtype=BF16)
    good = {"keys_new": new, "values_new": new, "keys": keys, "key_scale": key_scale, "values": values,
            "value_scale": value_scale, "first_row": 0, "positions": torch.arange(3)[None]}  # fmt: skip
    kv_int8.write(**good)
    with pytest.raises(ValueError, match=says):
        kv_int8.write(**good | change)


def test_heads_beyond_the_kernels_are_refused():
    with pytest.raises(ValueError, match="16 to 256"):
        kv_int8.decode(torch.zeros(1, 1, 8), *empty(1, 1, 4, 8), torch.ones(1, dtype=torch.int64), 1.0)


def test_pytorch_knows_the_operators(opchecked):
    cache = filled(3, 2, 10, 16)
    states = tokens(2, 2, 2, 3, 16, dtype=BF16)
    assert opchecked(torch.ops.deshi.kv_write, *states, *cache, 1, torch.arange(6).reshape(2, 3))
    query, lengths = tokens(2, 4, 16, dtype=BF16), torch.tensor([3, 10])
    assert opchecked(torch.ops.deshi.kv_decode, query, *cache, lengths, 0.25)

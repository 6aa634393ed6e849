"""Bit layouts against compressed-tensors' own packer, and the kernels' layout against its description."""

import pytest
import torch
from compressed_tensors.compressors.pack_quantized.helpers import pack_to_int32, unpack_from_int32
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.kernels.packing import deinterleave, fill_rows, interleave, pack, unpack

SHAPES = {"rows": st.integers(1, 9), "columns": st.integers(1, 300), "seed": st.integers(0, 99)}


def integers(rows, columns, bits, seed):
    generator = torch.Generator().manual_seed(seed)
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1)
    return torch.randint(low, high, (rows, columns), generator=generator, dtype=torch.int8)


@settings(max_examples=60, deadline=None)
@given(bits=st.sampled_from([4, 8]), **SHAPES)
def test_packed_as_compressed_tensors_packs(bits, rows, columns, seed):
    values = integers(rows, columns, bits, seed)
    packed = pack(values, bits)
    assert torch.equal(packed, pack_to_int32(values, bits))
    assert torch.equal(unpack(packed, bits, columns), values)
    assert torch.equal(unpack_from_int32(packed, bits, values.shape), values)
    down = pack(values.t().contiguous(), bits).t().contiguous()
    assert torch.equal(down, pack_to_int32(values, bits, packed_dim=0)), "as zero points lie"


@settings(max_examples=40, deadline=None)
@given(**SHAPES)
def test_interleaved_as_described(rows, columns, seed):
    values = integers(rows, columns, 4, seed)
    words = interleave(values)
    assert words.dtype == torch.int32 and words.shape == (-(-columns // 128), rows, 16) and words.is_contiguous()
    for block in range(words.shape[0]):
        for row in range(rows):
            for j in range(8):
                for c in range(16):
                    column = 128 * block + 16 * j + c
                    nibble = (int(words[block, row, c]) >> 4 * j) & 15
                    assert nibble == (int(values[row, column]) + 8 if column < columns else 0)
        if block == 0:
            break  # one block in full; the round trip has the others
    assert torch.equal(deinterleave(words, columns), values)


def test_rows_of_bytes_are_filled_up():
    values = integers(3, 21, 8, 0)
    filled = fill_rows(values)
    assert filled.shape == (3, 32) and filled.is_contiguous()
    assert torch.equal(filled[:, :21], values) and not filled[:, 21:].any()


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match=r"-9..0; 4 bits hold -8..7"):
        pack(torch.tensor([[-9, 0]], dtype=torch.int8), 4)
    with pytest.raises(ValueError, match="give an int8 matrix"):
        interleave(torch.zeros(2, 2))
    with pytest.raises(ValueError, match="17 columns of 4 bits lie in int32"):
        unpack(torch.zeros(1, 2, dtype=torch.int32), 4, 17)

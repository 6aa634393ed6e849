"""Bit layouts: integers as compressed-tensors stores them, and as the kernels read them.

compressed-tensors, `pack-quantized`: unsigned u = q + 2^(b-1), dense along a row, first element in the low bits:

    4 bits   int32 word w of a row = u[8w] | u[8w+1] << 4 | ... | u[8w+7] << 28        [out, ceil(in / 8)]
    8 bits   int32 word w of a row = u[4w] | u[4w+1] << 8 | ... | u[4w+3] << 24        [out, ceil(in / 4)]

    zero points are packed the same way down the rows: [ceil(out / (32 / b)), groups]

The kernels' 4-bit layout, `interleaved`: blocks of 128 columns, in which word c holds eight columns 16 apart,

                 bits  0-3     4-7      8-11          28-31
    word c =         u[c]   u[16+c]   u[32+c]  ...  u[112+c]          int32 [ceil(in / 128), out, 16]

so that (1) nibble j of the 16 words of a row are 16 neighbouring columns: one tensor-core step, which meets a slice of
x as it lies in memory; (2) a block of a row is 64 bytes, four 128-bit loads; (3) the rows of a block are neighbours, so
a tile is one stretch of memory; (4) no group of 32, 64 or 128 columns is split within a nibble. Columns that fill the
last block are 0. The kernels' 8-bit layout is a plain row of bytes, filled up with 0 to a multiple of 16 for whole
128-bit loads: [out, 16 ceil(in / 16)].

All four are exact for every shape. Scales and zero points are read across rows, so the kernels' lie [groups, out].
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

BLOCK = 128  # columns of an interleaved block
WORDS = 16  # 32-bit words of its row
BYTES = 16  # of a 128-bit load


def pack(values: Tensor, bits: int) -> Tensor:
    """int8 [rows, columns] to int32 [rows, ceil(columns * bits / 32)], as compressed-tensors lays it out.

    Raises:
        ValueError: if the values are no int8 matrix, or outside the range of the bits.
    """
    _check(values, bits)
    each = 32 // bits
    unsigned = values.to(torch.int64) + (1 << (bits - 1))
    unsigned = functional.pad(unsigned, (0, -values.shape[1] % each)).reshape(len(values), -1, each)
    shifts = torch.arange(0, 32, bits, device=values.device)
    return _int32((unsigned << shifts).sum(dim=2))


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack`: int8 [rows, columns].

    Raises:
        ValueError: if the words are not as many as the columns need.
    """
    each = 32 // bits
    if packed.dtype != torch.int32 or packed.ndim != 2 or packed.shape[1] != -(-columns // each):
        raise ValueError(
            f"packed weight is {packed.dtype} {list(packed.shape)}; {columns} columns of {bits} bits lie in int32 "
            f"[rows, {-(-columns // each)}]: read weight_shape beside it"
        )
    shifts = torch.arange(0, 32, bits, device=packed.device)
    unsigned = (packed.to(torch.int64)[..., None] >> shifts) & ((1 << bits) - 1)
    return (unsigned - (1 << (bits - 1))).to(torch.int8).reshape(len(packed), -1)[:, :columns].contiguous()


def interleave(values: Tensor) -> Tensor:
    """int8 [out, in] of 4 bits to the kernels' int32 [ceil(in / 128), out, 16].

    Raises:
        ValueError: if the values are no int8 matrix, or outside the range of 4 bits.
    """
    _check(values, 4)
    unsigned = functional.pad(values.to(torch.int64) + 8, (0, -values.shape[1] % BLOCK))
    nibbles = unsigned.reshape(len(values), -1, BLOCK // WORDS, WORDS)
    shifts = torch.arange(0, 32, 4, device=values.device)[:, None]
    return _int32((nibbles << shifts).sum(dim=2)).transpose(0, 1).contiguous()


def deinterleave(words: Tensor, columns: int) -> Tensor:
    """The inverse of `interleave`: int8 [out, columns]."""
    shifts = torch.arange(0, 32, 4, device=words.device)[:, None]
    nibbles = (words.transpose(0, 1).to(torch.int64)[:, :, None] >> shifts) & 0xF
    return (nibbles - 8).to(torch.int8).reshape(words.shape[1], -1)[:, :columns].contiguous()


def fill_rows(values: Tensor) -> Tensor:
    """int8 [out, in] to the kernels' [out, 16 ceil(in / 16)]."""
    return functional.pad(values, (0, -values.shape[1] % BYTES)).contiguous()


def _int32(words: Tensor) -> Tensor:
    return torch.where(words >= 2**31, words - 2**32, words).to(torch.int32)


def _check(values: Tensor, bits: int) -> None:
    if values.dtype != torch.int8 or values.ndim != 2:
        raise ValueError(f"values are {values.dtype} {list(values.shape)}; give an int8 matrix [rows, columns]")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if values.numel() and (int(values.min()) < low or int(values.max()) > high):
        raise ValueError(
            f"values lie in {int(values.min())}..{int(values.max())}; {bits} bits hold {low}..{high}: clamp them first"
        )

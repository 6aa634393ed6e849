"""Bit layouts: integers as compressed-tensors stores them, and as the kernels read them.

compressed-tensors, `pack-quantized`: unsigned u = q + 2^(b-1), dense along a row, first element in the low bits:

    4 bits   int32 word w of a row = u[8w] | u[8w+1] << 4 | ... | u[8w+7] << 28        [out, ceil(in / 8)]
    8 bits   int32 word w of a row = u[4w] | u[4w+1] << 8 | ... | u[4w+3] << 24        [out, ceil(in / 4)]

    zero points are packed the same way down the rows: [ceil(out / (32 / b)), groups]

The kernels' 4-bit layout, `interleaved`: blocks of 128 columns, in which word c holds eight columns 16 apart,

                 bits  0-3     4-7      8-11          28-31
    word c =         u[c]   u[16+c]   u[32+c]  ...  u[112+c]          int32 [ceil(in / 128), out, 16]

so that (1) nibble j of the 16 words of a row are 16 neighbouring columns, the inner width of a tensor-core step, and
the eight side by side are the row as it was; (2) a block of a row is 64 bytes, four 128-bit loads; (3) the rows of a
block are neighbours, so a tile is one stretch of memory; (4) no group of 32, 64 or 128 columns is split within a
nibble. Columns that fill the last block are 0. The kernels' 8-bit layout is a plain row of bytes, filled up with 0 to
a multiple of 16 for whole 128-bit loads: [out, 16 ceil(in / 16)].

All four are exact for every shape; words are little-endian, as every machine's that runs this. Scales and zero points
are read across rows, so the kernels' lie [groups, out].
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
    unsigned = _filled(_unsigned(values, bits), 32 // bits)
    if bits == 4:
        unsigned = unsigned[:, 0::2] | unsigned[:, 1::2] << 4
    return _words(unsigned).reshape(len(values), -1)


def unpack(packed: Tensor, bits: int, columns: int) -> Tensor:
    """The inverse of `pack`: int8 [rows, columns].

    Raises:
        ValueError: if the words are not as many as the columns need.
    """
    words = -(-columns // (32 // bits))
    if packed.dtype != torch.int32 or packed.ndim != 2 or packed.shape[1] != words:
        raise ValueError(
            f"packed weight is {packed.dtype} {list(packed.shape)}; {columns} columns of {bits} bits lie in int32 "
            f"[rows, {words}]: read weight_shape beside it"
        )
    unsigned = packed.flatten().view(torch.uint8).reshape(len(packed), -1)
    if bits == 4:
        unsigned = torch.stack((unsigned & 15, unsigned >> 4), dim=2).reshape(len(packed), -1)
    return _signed(unsigned[:, :columns], bits)


def interleave(values: Tensor) -> Tensor:
    """int8 [out, in] of 4 bits to the kernels' int32 [ceil(in / 128), out, 16].

    Raises:
        ValueError: if the values are no int8 matrix, or outside the range of 4 bits.
    """
    nibbles = _filled(_unsigned(values, 4), BLOCK).reshape(len(values), -1, BLOCK // WORDS, WORDS)
    in_bytes = nibbles[:, :, 0::2] | nibbles[:, :, 1::2] << 4  # [out, blocks, byte of a word, word]
    return _words(in_bytes.permute(1, 0, 3, 2)).reshape(-1, len(values), WORDS)


def deinterleave(words: Tensor, columns: int) -> Tensor:
    """The inverse of `interleave`: int8 [out, columns]."""
    in_bytes = words[..., None].view(torch.uint8).permute(1, 0, 3, 2)  # [out, blocks, byte of a word, word]
    nibbles = torch.stack((in_bytes & 15, in_bytes >> 4), dim=3).reshape(words.shape[1], -1)
    return _signed(nibbles[:, :columns], 4)


def fill_rows(values: Tensor) -> Tensor:
    """int8 [out, in] to the kernels' [out, 16 ceil(in / 16)]."""
    return functional.pad(values, (0, -values.shape[1] % BYTES)).contiguous()


def _filled(unsigned: Tensor, multiple: int) -> Tensor:
    return functional.pad(unsigned, (0, -unsigned.shape[1] % multiple))


def _words(in_bytes: Tensor) -> Tensor:
    return in_bytes.flatten().view(torch.int32)


def _signed(unsigned: Tensor, bits: int) -> Tensor:
    """uint8 u to int8 q = u - 2^(b-1); of 8 bits that is the other value of the highest one."""
    return ((unsigned ^ 128) if bits == 8 else unsigned - 8).view(torch.int8).contiguous()


def _unsigned(values: Tensor, bits: int) -> Tensor:
    """int8 q to uint8 u = q + 2^(b-1)."""
    if values.dtype != torch.int8 or values.ndim != 2:
        raise ValueError(f"values are {values.dtype} {list(values.shape)}; give an int8 matrix [rows, columns]")
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    if values.numel() and (int(values.min()) < low or int(values.max()) > high):
        raise ValueError(
            f"values lie in {int(values.min())}..{int(values.max())}; {bits} bits hold {low}..{high}: clamp them first"
        )
    as_bytes = values.view(torch.uint8)
    return as_bytes ^ 128 if bits == 8 else as_bytes + 8

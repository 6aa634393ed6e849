"""Executes the few PTX instructions that the kernels' inline assembler is made of, one after the other.

The interpreter has no assembler: this is how its text is proven. Read with `runpy.run_path`, as plain modules beside
tests are.
"""

from __future__ import annotations

import torch
from torch import Tensor


def executed(ptx: str, registers: dict[str, int], dtype: torch.dtype) -> dict[str, int]:
    """The registers after the text; `dtype` is that of the pairs in arithmetic, which is rounded once."""
    for line in ptx.strip("{} \n").splitlines():
        if not line or line.startswith(".reg"):
            continue
        name, _, rest = line.rstrip(";").partition(" ")
        target, *sources = [part.strip() for part in rest.split(",")]
        values = [registers[one] & 0xFFFFFFFF if one in registers else int(one, 0) for one in sources]
        registers[target] = _result(name, values, dtype)
    return registers


def pair(register: int, dtype: torch.dtype) -> Tensor:
    """The two 16-bit floats in a register, the lower one first."""
    return torch.tensor([register & 0xFFFF, register >> 16], dtype=torch.int32).to(torch.uint16).view(dtype)


def _result(name: str, values: list[int], dtype: torch.dtype) -> int:
    if name == "mov.b32":
        return values[0]
    if name == "and.b32":
        return values[0] & values[1]
    if name == "xor.b32":
        return values[0] ^ values[1]
    if name == "shr.u32":
        return values[0] >> values[1]
    if name == "prmt.b32":
        octets = [(values[0] | values[1] << 32) >> 8 * i & 0xFF for i in range(8)]
        return sum(octets[values[2] >> 4 * i & 0xF] << 8 * i for i in range(4))
    if name == "lop3.b32":
        a, b, c, table = values
        bits = ((a >> i & 1) << 2 | (b >> i & 1) << 1 | c >> i & 1 for i in range(32))
        return sum((table >> index & 1) << i for i, index in enumerate(bits))
    if name in ("fma.rn.bf16x2", "sub.f16x2"):
        a, b, *c = (pair(value, dtype).double() for value in values)
        low, high = (a * b + c[0] if c else a - b).to(dtype).view(torch.int16).tolist()
        return (low & 0xFFFF) | (high & 0xFFFF) << 16
    raise AssertionError(f"{name} is not executed here")

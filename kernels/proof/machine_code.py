"""What the machine code of one kernel tells.

    registers, stack     cuobjdump --dump-resource-usage
    spills               loads and stores of local memory in the code (LDL, STL): the stack's only use here
    shared               bytes a block asks for at launch
    loads                of every pointer argument the loads of global memory: bytes of one -> how many there are
    instructions         how often each counted name stands in the code

Which argument a load reads is not in the machine code. It is followed in the PTX, one step above: a register that is
computed from a pointer argument points into that argument, and what is loaded through it is no pointer. The assembler
keeps the width of a load.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from deshi.kernels.proof.launches import Binary
from deshi.kernels.triton_or_none import triton

# Tensor-core instructions by what they multiply, on each architecture's own unit: a warp's, Hopper's group of four
# warps', Blackwell's from tensor memory.
TENSOR_CORE = {
    "16-bit": {80: "HMMA", 89: "HMMA", 90: "HGMMA", 100: "UTCHMMA"},
    "int8": {80: "IMMA", 89: "IMMA", 90: "IGMMA", 100: "UTCIMMA"},
    "fp8": {89: "QMMA", 90: "QGMMA", 100: "UTCQMMA"},
}
# I2F and I2FP convert integers (rounded up, .RP, they are part of an integer division), LDL and STL are spills, BAR is
# a barrier.
COUNTED = ("[HIQ]G?MMA", "UTC[HIQ]MMA", "LDL", "STL", "LDS", "STS", "BAR", r"I2FP?(?![.\w]*\.RP\b)")
_COUNTED = re.compile(rf"\b({'|'.join(COUNTED)})\b")
# 128 + u in bfloat16 or 1024 + u in float16, of two numbers or of the upper byte alone; 1152 + a signed byte.
_BY_BITS = re.compile(r"\b(?:lop3|prmt)\.b32[^;]*0x(?:43004300|64006400|43434343|64646464|64806480)")
_INSTRUCTION = re.compile(r"^(?:@!?%p\d+\s+)?([a-z][\w.:]*)\s+(.*?);?$")
_REGISTER = re.compile(r"%rd?\d+\b")
_PARAMETER = re.compile(r"_param_(\d+)")
_LOAD = re.compile(r"ld\.global\S*?(?:\.v(\d))?\.[bfsu](\d+)$")
_COPY = re.compile(r"\[[^\]]*\],\s*\[([^\]]*)\],\s*(0x[0-9a-f]+|\d+)")


@dataclass(frozen=True, kw_only=True)
class Code:
    """What one compilation gave."""

    registers: int = 0
    stack: int = 0
    shared: int = 0
    loads: dict[str, dict[int, int]] = field(default_factory=dict)
    instructions: dict[str, int] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    made_by_bits: int = 0  # instructions of the PTX that set the exponent of a 16-bit float around an integer
    error: str | None = None  # of a kernel that does not compile; all else is then empty

    @property
    def spills(self) -> int:
        """Instructions that move a register to local memory or back."""
        return self.instructions.get("LDL", 0) + self.instructions.get("STL", 0)


def read(binary: Binary) -> Code:
    """Reads one binary and the PTX it was assembled from."""
    knobs = triton.knobs.nvidia
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        Path(file.name).write_bytes(binary.cubin)
        usage = _told([knobs.cuobjdump.path, "--dump-resource-usage", file.name])
        code = _told([knobs.nvdisasm.path, "-c", "-ndf", file.name])
    return Code(
        registers=max(map(int, re.findall(r"REG:(\d+)", usage))),
        stack=max(map(int, re.findall(r"STACK:(\d+)", usage))),
        shared=binary.shared,
        loads=loads_of(binary.ptx, binary.types),
        instructions=dict(Counter(_COUNTED.findall(code))),
        types=binary.types,
        made_by_bits=len(_BY_BITS.findall(binary.ptx)),
    )


def loads_of(ptx: str, types: Mapping[str, str]) -> dict[str, dict[int, int]]:
    """Pointer -> bytes of a load of global memory -> how many there are, asynchronous copies included.

    `types` are those of the parameters in their order; a pointer's begins with a star.
    """
    arguments = dict(enumerate(types))
    instructions = [match.groups() for line in ptx.splitlines() if (match := _INSTRUCTION.match(line.strip()))]
    points_into: dict[str, set[str]] = {}
    while True:  # until loops have carried everything round
        before = sum(map(len, points_into.values()))
        for name, operands in instructions:
            sources: set[str] = set()
            if name.startswith("ld.param"):
                parameter = _PARAMETER.search(operands)
                # Behind the arguments come Triton's own: scratch memory.
                argument = arguments.get(int(parameter[1])) if parameter else None
                sources = {argument} if argument and types[argument].startswith("*") else sources
            elif not name.startswith(("ld.", "cp.", "st.")):
                sources = sources.union(*(points_into.get(one, ()) for one in _REGISTER.findall(operands)[1:]))
            target = _REGISTER.match(operands)
            if target and sources:
                points_into.setdefault(target[0], set()).update(sources)
        if sum(map(len, points_into.values())) == before:
            break
    loads: dict[str, Counter[int]] = {}
    for name, operands in instructions:
        if load := _LOAD.match(name):
            address, width = operands.rpartition("[")[2], int(load[1] or 1) * int(load[2]) // 8
        elif name.startswith("cp.async") and (copy := _COPY.search(operands)):
            address, width = copy[1], int(copy[2], 0)
        else:
            continue
        for register in _REGISTER.findall(address):
            for argument in points_into.get(register, ()):
                loads.setdefault(argument, Counter())[width] += 1
    return {argument: dict(sorted(counts.items())) for argument, counts in loads.items()}


def _told(command: list[str]) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout

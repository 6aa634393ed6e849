"""`make kernels-report`: what the compiler makes of every kernel, on a machine without a GPU.

Every kernel, with the sizes it is launched with, is compiled for compute capability 8.0, 8.9, 9.0 and 10.0 (A100, L40S,
H100, B200). The gate: no register spills, shared memory within what a block may ask for, 128-bit loads of everything
large, the architecture's own tensor-core instructions where something is multiplied, and 4-bit numbers made by bit
operations and not by conversion. It proves that the intended code runs, not how fast: `deshi bench kernels` measures.

Below stands the roofline: the bytes at the datasheet's bandwidth or the operations at its peak, whichever takes longer.
The last line is one JSON object `{"figures": [...]}`; the exit code is 1 if the gate fails.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor

from deshi.kernels.figures import Figure, figure, print_figures, table
from deshi.kernels.proof import cases
from deshi.kernels.proof.cards import OF_ARCHITECTURE, SHARED_LIMIT
from deshi.kernels.proof.cases import Case
from deshi.kernels.proof.launches import compiled
from deshi.kernels.proof.machine_code import TENSOR_CORE, Code, read
from deshi.kernels.proof.work import SHAPES

Made = tuple[Case, int, Code]  # a case, an architecture, what came of them


def main() -> None:
    """Compiles, prints the tables, and ends with 1 if the gate fails."""
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("--processes", type=int, default=os.cpu_count())
    try:
        made = compile_all(tuple(cases.cases()), asked.parse_args().processes)
    except ValueError as error:
        print(f"deshi: {error}", file=sys.stderr)
        sys.exit(2)
    failures = [sentence for one in made for sentence in failing(*one)]
    print(table(HEADS, map(row, made)))
    print()
    print(roofline())
    for sentence in failures:
        print(f"FAILS  {sentence}")
    print_figures(figures(made))
    sys.exit(1 if failures else 0)


def compile_all(all_cases: Sequence[Case], processes: int) -> list[Made]:
    """Every case on each of its architectures, in that order."""
    global _pairs
    _pairs = [(case, sm) for case in all_cases for sm in case.architectures]
    # A kernel cannot be sent to another process; a fork has it already.
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("fork")) as pool:
        codes = list(pool.map(_code, range(len(_pairs))))
    return [(case, sm, code) for (case, sm), code in zip(_pairs, codes, strict=True)]


_pairs: list[tuple[Case, int]] = []


def _code(index: int) -> Code:
    case, sm = _pairs[index]
    try:
        return read(compiled(case.launch, sm))
    except Exception as error:  # whatever a compiler raises is told, and the other kernels are compiled
        lines = [line.strip() for line in f"{error.__cause__ or error}".splitlines() if line.strip()]
        return Code(error=f"{type(error).__name__}: {lines[-1] if lines else ''}")


def failing(case: Case, sm: int, code: Code) -> list[str]:
    """A sentence for everything that is not as it must be."""
    where = f"{case.kernel} ({case.label}) on sm_{sm}"
    return [f"{where} {sentence}" for check in GATE.values() if (sentence := check(case, sm, code)) is not None]


def compiles(case: Case, sm: int, code: Code) -> str | None:
    """There is a program at all."""
    return None if code.error is None else f"does not compile: {code.error}"


def spills(case: Case, sm: int, code: Code) -> str | None:
    """Registers are enough."""
    if code.spills or code.stack:
        return f"spills: {code.spills} instructions, {code.stack} bytes of stack; take a smaller tile"
    return None


def shared(case: Case, sm: int, code: Code) -> str | None:
    """A block may ask for so much."""
    if code.shared > SHARED_LIMIT[sm]:
        return f"asks for {code.shared} bytes of shared memory, {SHARED_LIMIT[sm]} are allowed; take fewer stages"
    return None


def wide_loads(case: Case, sm: int, code: Code) -> str | None:
    """What is large is read 128 bits at a time or more: nine tenths of it, as a kernel may look up one number."""
    for name in case.must.wide if code.error is None else ():
        loads = code.loads.get(name, {})
        whole = sum(width * count for width, count in loads.items())
        if sum(width * count for width, count in loads.items() if width >= case.wide) < 0.9 * whole or not whole:
            return f"must read {name} {case.wide} bytes at a time; its loads are of {told_widths(loads)} bytes"
    return None


def told_widths(loads: Mapping[int, int]) -> str:
    """Bytes of the loads of one argument."""
    return " and ".join(map(str, loads)) or "no"


def tensor_cores(case: Case, sm: int, code: Code) -> str | None:
    """The architecture's own instruction multiplies; fewer than four warps have only a warp's."""
    wanted = multiplies_by(case, sm, code)
    if code.error is None and wanted is not None and not code.instructions.get(wanted):
        return f"must multiply by {wanted}; its code has {code.instructions}"
    return None


def multiplies_by(case: Case, sm: int, code: Code) -> str | None:
    """The instruction that must be there."""
    kinds = {kind for type_, kind in (case.must.math or {}).items() if type_ in code.types.values()}
    if not kinds:
        return None
    own = TENSOR_CORE[kinds.pop()]
    return own[sm] if case.warps >= 4 else own[max(other for other in own if other <= 89)]


def bit_operations(case: Case, sm: int, code: Code) -> str | None:
    """Integers become floats by an exponent set around them: a few conversions, of zero points, are no weights."""
    converted = code.instructions.get("I2F", 0) + code.instructions.get("I2FP", 0)
    if code.error is None and case.must.by_bits and not 4 * converted <= code.made_by_bits > 0:
        return f"must make floats by bit operations; it has {code.made_by_bits} of them and {converted} conversions"
    return None


# Figure of the last line -> its check, None where it holds.
GATE: dict[str, Callable[[Case, int, Code], str | None]] = {
    "kernels that do not compile": compiles,
    "kernels that spill registers": spills,
    "kernels over the shared memory of a block": shared,
    "kernels that read large arguments narrowly": wide_loads,
    "products without the architecture's tensor-core instruction": tensor_cores,
    "kernels that convert integers slowly": bit_operations,
}


def figures(made: Sequence[Made]) -> list[Figure]:
    """How many compilations there were, and how many fail each check."""
    failed = {name: sum(check(*one) is not None for one in made) for name, check in GATE.items()}
    return [
        figure("compilations", len(made), "kernels"),
        *(figure(name, count, "kernels", bar=0, at_least=False) for name, count in failed.items()),
    ]


HEADS = ("kernel", "sm", "registers", "spills", "shared", "of", "loads, bytes", "instructions")


def row(one: Made) -> tuple[str, ...]:
    """One line of the table."""
    case, sm, code = one
    loads = ", ".join(f"{pointer} {told_widths(widths)}" for pointer, widths in code.loads.items())
    counts = {name: count for name, count in code.instructions.items() if name not in ("LDL", "STL")}
    if code.made_by_bits:
        counts["by bits"] = code.made_by_bits
    told = ", ".join(f"{name} {count}" for name, count in sorted(counts.items()))
    numbers = (sm, code.registers, code.spills, code.shared, SHARED_LIMIT[sm])
    return f"{case.kernel}: {case.label}", *map(str, numbers), loads, told


def roofline() -> str:
    """What no card can do faster, by datasheet."""
    cards = tuple(OF_ARCHITECTURE.values())
    rows = [
        (
            f"{shape.kernel}: {shape.label}",
            f"{shape.bytes_moved / 1e6:.2f}",
            f"{shape.operations / 1e9:.2f}",
            *(
                "-" if shape.math and shape.math not in card.peaks else f"{1e6 * shape.least_seconds(card):.1f}"
                for card in cards
            ),
        )
        for shape in SHAPES
    ]
    heads = ("least time by datasheet", "MB", "Gop", *(f"{card.name}, us" for card in cards))
    sources = "\n".join(f"{card.name}: {card.source}" for card in cards)
    return f"{table(heads, rows)}\n{sources}\n"


if __name__ == "__main__":
    main()

"""`make bench-evidence`: how far the evidence of a run can be trusted, each proof against its bar.

How often the gate calls a student non-inferior whose true drop is the margin, and how often it finds a slice harmed, in
students that harm one and in students that harm none: both simulate students from the run's stored answers
(gate_simulation.py). Then the page, and several PoCs together (page_proof.py). The last line is one JSON object
`{"figures": [...]}`, missed bars included.

A proof joins as a function of the run's folder that prints its table and returns its figures: a row of `PROOFS`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from scipy import stats

from deshi.jobs.evidence.benches import gate_simulation, page_proof
from deshi.jobs.evidence.benches.bench import show
from deshi.jobs.evidence.benches.gate_simulation import PLANTED, SLICE_ROWS, Stored
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.finished_run import ANSWERS_FILE, EVIDENCE_FILE, RELEASE_FOLDER
from deshi.jobs.storage import Storage
from deshi.kernels.figures import Figure, figure, print_figures
from deshi.serve.release import Manifest
from deshi.serve.statistics import rows_needed

DRAWS, UNHARMED, BROKEN = 5000, 2000, 100
OTHER_ROWS = (300, 3000)
LIMIT, SIGNIFICANCE = 0.05, 0.01
POWER, POWER_OFF = 0.8, 0.05
BLOCKED_BAR = 95


def main(run: str) -> None:
    """Prints the tables and the figures of a finished run."""
    figures = [found for proof in PROOFS for found in proof(Path(run))]
    print_figures(figures)


def non_inferiority(run: Path, *, draws: int = DRAWS) -> list[Figure]:
    """How often a student whose true drop is the margin passes, and whether the rows that are planned suffice."""
    evidence, answers = evidence_of(run), stored(run)
    quality = evidence.recipe["kpi"]["quality"]
    margin, confidence, counts = quality["max_drop"], quality["confidence"], sorted({len(answers.right), *OTHER_ROWS})
    gate: dict[str, Any] = {"margin": margin, "confidence": confidence, "draws": draws, "seed": 0}
    found = {rows: gate_simulation.gate_outcomes(answers, drop=margin, rows=rows, **gate) for rows in counts}
    smaller = min(answers.drop, margin / 2)
    needed = rows_needed(smaller, max(answers.discordant_share, abs(smaller)), margin, confidence)
    assert needed is not None
    powered = gate_simulation.gate_outcomes(answers, drop=smaller, rows=needed, **gate)
    lines = [(margin, rows, said) for rows, said in found.items()] + [(smaller, needed, powered)]
    show(
        f"{draws:,} students each, margin {100 * margin:g} points",
        ("true drop, points", "rows", "PASS", "INCONCLUSIVE", "FAIL"),
        [
            (f"{100 * drop:.2f}", f"{rows:,}", *(f"{said[name]:.1%}" for name in ("PASS", "INCONCLUSIVE", "FAIL")))
            for drop, rows, said in lines
        ],
    )
    bar = most_by_chance(draws)
    return [
        *(
            figure(f"PASS at a true drop of the margin, {rows} rows", said["PASS"], "share", bar=bar, at_least=False)
            for rows, said in found.items()
        ),
        figure("PASS with the rows planned for 80%", powered["PASS"], "share"),
        figure("distance from 80%", abs(powered["PASS"] - POWER), "share", bar=POWER_OFF, at_least=False),
    ]


def slice_harm(run: Path, *, unharmed: int = UNHARMED, broken: int = BROKEN) -> list[Figure]:
    """How many students with a broken slice are blocked, and how many of those without."""
    answers, margin = stored(run), evidence_of(run).recipe["kpi"]["quality"]["max_drop"]
    worse = 0.6 * margin
    kinds = {
        "unharmed": gate_simulation.same_drop(answers),
        f"{100 * worse:.3g} points worse in every slice": gate_simulation.same_drop(answers, worse),
        "no drop, differing in 2% and 30% of rows by slice": gate_simulation.uneven_flips(),
    }
    caught = gate_simulation.blocked(answers, gate_simulation.planted(answers), margin=margin, draws=broken, seed=1)
    found = {
        name: gate_simulation.blocked(answers, students, margin=margin, draws=unharmed, seed=2 + number)
        for number, (name, students) in enumerate(kinds.items())
    }
    what = f"one slice of at least {SLICE_ROWS} rows broken by {100 * PLANTED:g} points"
    show(
        f"{max(gate_simulation.ROWS, len(answers.right)):,} rows in at most {gate_simulation.SLICES} slices",
        ("students", "drawn", "blocked", "Holm's test rejects"),
        [(what, f"{broken}", *(f"{share:.1%}" for share in caught))]
        + [(name, f"{unharmed:,}", *(f"{share:.1%}" for share in shares)) for name, shares in found.items()],
    )
    bar = most_by_chance(unharmed)
    return [
        figure(f"blocked of {broken}, {what}", caught[0] * broken, "students", bar=BLOCKED_BAR * broken / 100),
        *(
            figure(f"{what} of {unharmed}, {name}", share, "share", bar=bar, at_least=False)
            for name, shares in found.items()
            for what, share in zip(("blocked", "rejected by the test alone"), shares, strict=True)
        ),
    ]


def most_by_chance(draws: int) -> float:
    """The largest share of draws that is not significantly above LIMIT: one-sided binomial at SIGNIFICANCE."""
    return float(stats.binom.ppf(1 - SIGNIFICANCE, draws, LIMIT)) / draws


def evidence_of(run: Path) -> Evidence:
    """The run's evidence.

    Raises:
        ValueError: if its task has no answers that are right or wrong.
    """
    evidence = Evidence.model_validate_json((run / EVIDENCE_FILE).read_text(encoding="utf-8"))
    if evidence.task != "classify":
        raise ValueError(f"{run} is of task {evidence.task}, whose answers are not right or wrong; give a classifier's")
    return evidence


def stored(run: Path) -> Stored:
    """What teacher and chosen model answered; slices are the recipe's first column, or the labels if it has none."""
    evidence, answers = evidence_of(run), pq.read_table(run / ANSWERS_FILE)
    told = {name: answers.filter(pc.field("model") == name).sort_by("row") for name in ("teacher", "chosen")}
    right = {name: np.array(pc.equal(rows["answer"], rows["label"]).to_pylist(), bool) for name, rows in told.items()}
    slice_of = told["teacher"]["label"].to_pylist()
    if columns := evidence.recipe["data"]["slices"]:
        splits = Storage(str(run.parent)).fetch(Manifest.read(run / RELEASE_FOLDER).lineage["splits"])
        slice_of = pq.read_table(splits / "test.parquet", columns=[columns[0]])[columns[0]].to_pylist()
    return Stored(taught_right=right["teacher"], right=right["chosen"], slice_of=tuple(name or "" for name in slice_of))


PROOFS: tuple[Callable[[Path], list[Figure]], ...] = (
    non_inferiority,
    slice_harm,
    page_proof.page,
    page_proof.portfolio,
)

if __name__ == "__main__":
    main(sys.argv[1])

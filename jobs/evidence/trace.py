"""From any number of the page back to where it comes from: the entry of `evidence.json`, how it was measured, the file
that holds the rows, and, wherever rows or inputs are at hand, the number computed once more.

    deshi trace RUN /models/0/quality/drop

What is computed again: every figure of a classifier's quality and of its slices, from `test-answers.parquet` and the
run's test split; the verdict, from the KPI rows; the account, from the recipe and the figures it rests on. Times were
measured once; for those the entry says how, and on which machine.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deshi.jobs.evidence.business.business_case import cases
from deshi.jobs.evidence.page.pointers import resolve
from deshi.jobs.evidence.quality import picked
from deshi.jobs.evidence.schema import Evidence, SliceRow
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.evidence.verdict import verdict
from deshi.jobs.recipe import Recipe

TOLERANCE = 1e-9
ANSWERS = "test-answers.parquet: the rows of this model and of the teacher"


@dataclass(frozen=True, kw_only=True)
class Traced:
    """An entry, where its rows lie, and its value again (None: not computed again here)."""

    entry: Any
    rows: str
    again: float | str | None = None

    @property
    def value(self) -> Any:
        """The number of the entry: a figure's value, or the entry itself."""
        return self.entry.get("value") if isinstance(self.entry, dict) else self.entry

    @property
    def agrees(self) -> bool | None:
        """Whether it comes out the same; None where it was not computed again."""
        if self.again is None:
            return None
        if isinstance(self.again, float) and isinstance(self.value, int | float):
            return math.isclose(self.again, self.value, rel_tol=TOLERANCE, abs_tol=TOLERANCE)
        return bool(self.again == self.value)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What numbers are computed from again: the evidence, the answers to the test rows, the test rows themselves."""

    evidence: Evidence
    answers: pa.Table
    test: pa.Table


def trace(evidence_path: Path, pointer: str, *, answers: Path, test: Path) -> Traced:
    """Follows a JSON pointer into an evidence; one that ends in a figure's field (`/value`, `/low`) is followed to it.

    Raises:
        ValueError: if nothing stands there.
    """
    content = evidence_path.read_text(encoding="utf-8")
    document = json.loads(content)
    try:
        entry = resolve(document, pointer)
        parent, _, field = pointer.rpartition("/")
        if field in ("value", "low", "high", "n") and "how" in (above := resolve(document, parent)):
            entry, pointer = above, parent
    except (LookupError, TypeError):
        raise ValueError(
            f"{pointer} leads nowhere in {evidence_path}; take one from an attribute data-evidence of the page"
        ) from None
    source = Source(
        evidence=Evidence.model_validate_json(content), answers=pq.read_table(answers), test=pq.read_table(test)
    )
    for pattern, follow in FOLLOWED:
        if found := re.fullmatch(pattern, pointer):
            rows, again = follow(source, *found.groups())
            return Traced(entry=entry, rows=rows, again=again)
    return Traced(entry=entry, rows="evidence.json: recorded while the run was measured", again=None)


def _quality(source: Source, model: str, field: str) -> tuple[str, float | None]:
    if source.evidence.task != "classify":
        return f"{ANSWERS}, means over a row's tokens", None
    mine, taught, truth = _predictions(source, int(model))
    return ANSWERS, _recomputed(source, field, mine, taught, truth, source.evidence.models[int(model)].id)


def _recomputed(
    source: Source,
    field: str,
    mine: NDArray[np.int64],
    taught: NDArray[np.int64],
    truth: NDArray[np.int64],
    id: str,
) -> float | None:
    classes = len(source.evidence.data.classes)
    score = SCORES[source.evidence.score_name]
    right, taught_right = mine == truth, taught == truth
    kl = _of_model(source.answers, id)["kl"].to_pylist()
    found: dict[str, Callable[[], float]] = {
        "score": lambda: score(truth, mine, classes),
        "drop": lambda: score(truth, taught, classes) - score(truth, mine, classes),
        "flips_to_wrong": lambda: float(np.sum(taught_right & ~right)),
        "flips_to_right": lambda: float(np.sum(~taught_right & right)),
        "agreement": lambda: float(np.mean(mine == taught)),
        **({} if None in kl else {"kl": lambda: float(np.mean(kl))}),
    }
    return found[field]() if field in found else None


def _slice(source: Source, model: str, place: str, field: str) -> tuple[str, float | None]:
    told: SliceRow = source.evidence.models[int(model)].quality.slices[int(place)]
    where = f"{ANSWERS}, where {told.column} = {told.value} in the test split"
    if source.evidence.task != "classify":
        return where, None
    here = np.array([(value or "") == told.value for value in source.test[told.column].to_pylist()])
    mine, taught, truth = (part[here] for part in _predictions(source, int(model)))
    hits, taught_hits = float(np.mean(mine == truth)), float(np.mean(taught == truth))
    again = {"score": hits, "teacher_score": taught_hits, "drop": taught_hits - hits, "n": float(here.sum())}
    return where, again[field]


def _kpi(source: Source, place: str) -> tuple[str, float | None]:
    row = source.evidence.kpis[int(place)]
    if row.name == "drop":
        return _quality(source, "0", "drop")
    return "evidence.json: the chosen model's figure of that name, where it was measured", None


def _verdict(source: Source) -> tuple[str, str]:
    confidence = source.evidence.recipe["kpi"]["quality"]["confidence"]
    chosen = source.evidence.model_row("chosen")
    slices = chosen.quality.slices if chosen else ()
    return "evidence.json: /kpis", verdict(source.evidence.kpis, slices=slices, confidence=confidence).decision


def _account(source: Source, place: str, rest: str) -> tuple[str, float | None]:
    told = source.evidence
    again = cases(Recipe.recorded(told.recipe), told.models, told.risk)
    entry = resolve([case.model_dump(mode="json") for case in again], f"/{place}{rest}")
    value = entry.get("value") if isinstance(entry, dict) else entry
    rows = "evidence.json: /recipe/business, /recipe/targets and the figures of /models on this target"
    return rows, float(value) if isinstance(value, int | float) else None


# Pointer -> how it is followed; what has no row was recorded while it was measured.
FOLLOWED: tuple[tuple[str, Callable[..., tuple[str, float | str | None]]], ...] = (
    (r"/models/(\d+)/quality/(\w+)", _quality),
    (r"/models/(\d+)/quality/slices/(\d+)/(score|teacher_score|drop|n)", _slice),
    (r"/kpis/(\d+)/figure", _kpi),
    (r"/verdict/decision", _verdict),
    (r"/business/(\d+)(/.*)", _account),
)


def _predictions(source: Source, model: int) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Class numbers of a model's answers, of the teacher's, and of the labels, row by row."""
    id, classes = source.evidence.models[model].id, source.evidence.data.classes
    mine, taught = (picked(_of_model(source.answers, who), classes) for who in (id, "teacher"))
    return mine.predictions, taught.predictions, mine.labels


def _of_model(answers: pa.Table, model: str) -> pa.Table:
    return answers.filter(pc.equal(answers["model"], model))

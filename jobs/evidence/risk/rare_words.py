"""Does rounding hurt where words are rare? Full precision against the rounded build that is served, row by row.

Integers are scaled to what calibration rows and common inputs look like, so inputs unlike them are where a rounded
model leaves its parent first. A row's rarity is the mean over its words of log(1 + count of the word in the train and
unlabelled rows); the quarter of the rows with the lowest mean is held against the others, each share with Wilson's
interval.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.contender import Contender
from deshi.jobs.evidence import measure
from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.risk.words import words
from deshi.jobs.finalist import local_threads
from deshi.jobs.stages import builds
from deshi.jobs.stages.lesson import Lesson
from deshi.serve.statistics import proportion_interval

SHARE = 0.25


@dataclass(frozen=True, kw_only=True)
class Divergence:
    """Share of rows that the rounded build answers unlike its parent in full precision."""

    rare: Figure
    common: Figure


def commonness(texts: Sequence[str], seen: Sequence[str]) -> NDArray[np.float64]:
    """Mean log frequency of each text's words in the `seen` texts; 0 of a text without words or with none seen."""
    counts = Counter(word for text in seen for word in words(text))
    return np.array([np.mean([np.log1p(counts[word]) for word in words(text)] or [0.0]) for text in texts])


def rarest(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    """The quarter of the rows with the lowest values, at least one; of equal ones the first."""
    rare = np.zeros(len(values), bool)
    rare[np.argsort(values, kind="stable")[: max(1, round(SHARE * len(values)))]] = True
    return rare


def divergence(lesson: Lesson, winner: Contender, answers: Sequence[str], split: str = "test") -> Divergence | None:
    """The winner's served `answers` to a split beside those of its own weights in fp32.

    None where its scheme rounds nothing, or the split is too small to hold rare rows against others.
    """
    table = lesson.splits.table(split)
    if winner.candidate.scheme == "fp32" or winner.candidate.family == "static" or table.num_rows < 2:
        return None
    whole = builds.export(lesson, winner.finalist.model, [measure.YARDSTICK])
    threads = local_threads(lesson.recipe.targets[0])
    model = measure.classifier(whole.path, lesson, measure.everywhere(measure.YARDSTICK), threads=threads)
    told = measure.answers(model, table, lesson.splits.labels)
    differs = np.array([lesson.splits.labels[one] for one in told.predictions]) != np.array(answers)
    seen = [text for name in ("train", "unlabelled") for text in lesson.splits.table(name)["text"].to_pylist()]
    rare = rarest(commonness(table["text"].to_pylist(), seen))

    def share(of: NDArray[np.bool_], which: str) -> Figure:
        found = proportion_interval(
            int(differs[of].sum()), int(of.sum()), confidence=lesson.recipe.kpi.quality.confidence
        )
        how = f"{winner.candidate.scheme} answers unlike fp32 of the same weights, {which}, Wilson"
        return figure_of(found, "share", how)

    return Divergence(
        rare=share(rare, "the quarter of the test rows with the rarest words"), common=share(~rare, "other test rows")
    )

"""One trial: a candidate is made, built for the engines that have a chance, timed, and asked the validation rows.

What comes back is a line of the ledger: the three objectives (`quality`, `latency_ms`, `size_mb`) and what explains
them. `quality` is the mean of the score on the validation labels and the agreement with the teacher on held-out
unlabelled rows: the one has labels, the other has many rows.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from deshi.jobs.evidence import measure
from deshi.jobs.evidence.latency import LatencyRow
from deshi.jobs.evidence.scores import SCORES
from deshi.jobs.session import Machine
from deshi.jobs.stages import builds, chain
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output

CHANCE = 1.15  # a build this much slower than the best at every shape of the teacher is not tried on students


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What trials are measured on: the first target's threads, a typical request, the builds worth trying."""

    yardstick_key: str
    threads: int
    typical_tokens: int
    builds: dict[str, tuple[str, ...]]  # scheme -> build ids

    @property
    def shape(self) -> dict[str, tuple[int, int]]:
        """One request of typical length."""
        return {"typical": (1, self.typical_tokens)}


def screened(rows: Sequence[LatencyRow], names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Scheme -> builds worth trying: those within `CHANCE` of their scheme's best at some shape of the teacher.

    A scheme that rounds must also be within `CHANCE` of the fastest of all at some shape, else it only loses accuracy.
    """
    ratio = {(row.engine, row.shape): row.ratio_to_reference for row in rows}
    shapes = sorted({row.shape for row in rows})

    def near_best(name: str, among: Sequence[str]) -> bool:
        return any(ratio[name, shape] <= CHANCE * min(ratio[other, shape] for other in among) for shape in shapes)

    kept = {}
    for scheme in sorted({name.rpartition("-")[2] for name in names}):
        of_scheme = [name for name in names if name.endswith(f"-{scheme}")]
        tried = tuple(name for name in of_scheme if near_best(name, of_scheme))
        if scheme == "fp32" or any(near_best(name, names) for name in tried):
            kept[scheme] = tried
    return kept


def evaluate(candidate: Candidate, lesson: Lesson, machine: Machine, bench: Bench) -> dict[str, Any]:
    """Makes and measures a candidate; the line without its seconds."""
    torch.set_num_threads(os.cpu_count() or 1)  # Ray gives a trial one thread; it is alone on its machine
    model = chain.make(candidate, lesson, machine)
    names = ("static-fp32",) if candidate.family == "static" else bench.builds[candidate.scheme]
    served = builds.export(lesson, model, names)
    yardstick = Output(key=bench.yardstick_key, storage=lesson.storage)
    rows = measure.latency(lesson, served, yardstick, builds=names, threads=bench.threads, shapes=bench.shape)
    fastest = min((row for row in rows if row.engine in names), key=lambda row: (row.median_ms, row.engine))
    asked = measure.classifier(served.path, lesson, measure.everywhere(fastest.engine), threads=bench.threads)
    splits, classes = lesson.splits, len(lesson.splits.labels)
    validation = measure.answers(asked, splits.table("validation"), splits.labels)
    score = SCORES[lesson.recipe.kpi.quality.score](validation.labels, validation.predictions, classes)
    held_out = measure.answers(asked, splits.table("agreement"), splits.labels)
    agreement = float(np.mean(held_out.predictions == lesson.log_probabilities("agreement").argmax(axis=1)))
    return {
        "model": model.key,
        "build": fastest.engine,
        "score": score,
        "agreement": agreement,
        "quality": (score + agreement) / 2,
        "latency_ms": fastest.median_ms,
        "latency_ratio": fastest.ratio_to_reference,
        "size_mb": builds.size_mb(served.path, [fastest.engine]),
    }

"""One trial: a candidate is made, built for the engines that have a chance, timed, and asked the validation rows.

What comes back is a line of the ledger: the three objectives (`quality`, `latency_ms`, `size_mb`) and what explains
them. What `score`, `agreement` and `quality` are is the task's.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch

from deshi.jobs.session import Machine
from deshi.jobs.stages import builds, chain
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.jobs.task import task_of


@dataclass(frozen=True, kw_only=True)
class Bench:
    """What trials are measured on: the first target's threads, a typical request, the builds worth trying."""

    yardstick_key: str
    threads: int
    typical: tuple[int, int]  # one request of typical length, as the task's `latency` takes a shape
    builds: dict[str, tuple[str, ...]]  # scheme -> build ids; the finest last

    @property
    def shape(self) -> dict[str, tuple[int, int]]:
        """The one shape that trials are timed at."""
        return {"typical": self.typical}

    @property
    def finest(self) -> str:
        """The scheme that rounds least."""
        return tuple(self.builds)[-1]

    def builds_of(self, candidate: Candidate) -> tuple[str, ...]:
        """The builds that a candidate is made for."""
        return ("static-fp32",) if candidate.family == "static" else self.builds[candidate.scheme]


def evaluate(candidate: Candidate, lesson: Lesson, machine: Machine, bench: Bench) -> dict[str, Any]:
    """Makes and measures a candidate; the line without its seconds."""
    torch.set_num_threads(os.cpu_count() or 1)  # Ray gives a trial one thread; it is alone on its machine
    task, names = task_of(lesson.recipe), bench.builds_of(candidate)
    model = chain.make(candidate, lesson, machine)
    served = builds.export(lesson, model, names)
    yardstick = Output(key=bench.yardstick_key, storage=lesson.storage)
    rows = task.latency(lesson, served, yardstick, builds=names, threads=bench.threads, shapes=bench.shape)
    fastest = min((row for row in rows if row.engine in names), key=lambda row: (row.median_ms, row.engine))
    return {
        "model": model.key,
        "build": fastest.engine,
        **task.judge(lesson, served.path, fastest.engine, bench.threads),
        "latency_ms": fastest.median_ms,
        "latency_ratio": fastest.ratio_to_reference,
        "size_mb": builds.size_mb(served.path, [fastest.engine]),
    }

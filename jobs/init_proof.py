"""What a new recipe can prove, and how long it will take: both before anything runs.

The smallest drop that n test rows can prove is the least margin m (in tenths of a point) with

    rows_needed(true drop, discordant share, m, confidence) <= n            (serve/statistics.py, 80% power)

for a student whose true drop and share of rows answered differently are assumed (`ASSUMED`), and no m below the one
that n rows prove when not one of them differs, 1 - ((1 - confidence) / 4)^(1 / n).

The minutes are those of `deshi plan` at the speed of this machine, measured on a matrix product, and for what a plan
does not count (starting workers, exporting, loading endpoints) `START_MINUTES` and `TRIAL_MINUTES` each trial, as seen
on two cores. Where the teacher is not here nothing can be counted, and the rule is twice `search.minutes` and the same.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from deshi.jobs.recipe import Recipe
from deshi.serve.statistics import rows_needed

START_MINUTES, TRIAL_MINUTES = 3.0, 0.25
UTILISATION = 0.4  # of the speed of a large matrix product, as `deshi plan` assumes
PRODUCT = 1024  # rows and columns
# (true drop, share of rows that teacher and student answer differently). A language model's drop is that share.
ASSUMED: dict[str, tuple[float, float]] = {"classify": (0.01, 0.05), "generate": (0.05, 0.05)}


@dataclass(frozen=True, kw_only=True)
class Proof:
    """What the test rows can prove of a student like the assumed one."""

    rows: int
    margin: float  # allowed
    needed: int | None  # rows that prove it; None: the assumed drop is not below it
    smallest: float | None  # provable drop; None: none below 1
    without_flips: float  # provable where no row differs
    true_drop: float
    discordant: float
    confidence: float

    @property
    def is_enough(self) -> bool:
        """Whether the rows can prove the allowed drop."""
        return self.needed is not None and self.needed <= self.rows


@dataclass(frozen=True, kw_only=True)
class Minutes:
    """How long a run takes: `planned`, or by the rule; and what `deshi plan` would refuse or warn of."""

    minutes: float
    planned: bool
    refused: tuple[str, ...] = ()


def needed_for(task: str, margin: float, confidence: float) -> int | None:
    """Test rows that prove the allowed drop of a student like the assumed one."""
    drop, discordant = ASSUMED[task]
    return rows_needed(drop, discordant, margin, confidence)


def proof(task: str, rows: int, *, margin: float, confidence: float) -> Proof:
    """What `rows` test rows can prove."""
    drop, discordant = ASSUMED[task]
    return Proof(
        rows=rows,
        margin=margin,
        needed=rows_needed(drop, discordant, margin, confidence),
        smallest=smallest_drop(rows, drop, discordant, confidence),
        without_flips=1 - ((1 - confidence) / 4) ** (1 / rows),
        true_drop=drop,
        discordant=discordant,
        confidence=confidence,
    )


def smallest_drop(rows: int, drop: float, discordant: float, confidence: float) -> float | None:
    """The least margin in thousandths that `rows` rows prove; None if there is none below 1."""
    for thousandth in range(1, 1000):
        needed = rows_needed(drop, discordant, thousandth / 1000, confidence)
        if needed is not None and needed <= rows:
            return thousandth / 1000
    return None


def minutes(recipe: Recipe) -> Minutes:
    """How long a run of the recipe takes on this machine."""
    fixed = START_MINUTES + TRIAL_MINUTES * recipe.search.trials
    if not (Path(recipe.teacher.model) / "config.json").is_file():
        return Minutes(minutes=2 * recipe.search.minutes + fixed, planned=False)
    from deshi.jobs.plan import cost
    from deshi.jobs.plan_stages import Cluster
    from deshi.jobs.session import settle_accelerator

    settle_accelerator()
    tflops = measured_tflops() / recipe.distill.workers  # a device is one worker's share
    cluster = Cluster(
        tflops=tflops,
        utilisation=UTILISATION,
        price_per_hour=None,
        devices_per_machine=recipe.distill.workers,
        gpu_memory_gb=None,
        rows=None,
        teacher_config=None,
        student_config=None,
    )
    made = cost(recipe, cluster)
    speed = tflops * 1e12 * UTILISATION * recipe.distill.workers * 60
    computed = sum(row.flops / speed if row.hours is None else row.hours * 60 for row in made.stages)
    return Minutes(minutes=computed + fixed, planned=True, refused=made.refused)


def measured_tflops() -> float:
    """TFLOP/s of all cores on one product of two float32 matrices of `PRODUCT` rows: the best of ten."""
    left = np.random.default_rng(0).random((PRODUCT, PRODUCT), np.float32)
    best = float("inf")
    for _ in range(10):
        began = time.perf_counter()
        left @ left
        best = min(best, time.perf_counter() - began)
    return 2 * PRODUCT**3 / best / 1e12

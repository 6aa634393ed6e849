"""The recipe's `resources`: what a run may take of the machine or the cluster, and how much it measures."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deshi.serve.kpi import Frozen

Auto = Literal["auto"]


class TrainResources(Frozen):
    """What one training worker takes."""

    use_gpu: bool | Auto = "auto"
    gpus_per_worker: float = Field(1, gt=0)
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    gradient_accumulation: int = Field(1, ge=1)
    gradient_checkpointing: bool = False


class TeacherResources(Frozen):
    """How the teacher's answers are computed."""

    replicas: int = Field(1, ge=1)
    gpus_each: float = Field(1, ge=0)
    batch_size: int | Auto = "auto"


class SearchResources(Frozen):
    """How wide the search runs."""

    max_concurrent_trials: int | Auto = "auto"
    gpus_per_trial: float | Auto = "auto"
    time_budget_s: float | None = Field(None, gt=0)


class Resources(Frozen):
    """All optional; the defaults fit the machine."""

    train: TrainResources = TrainResources()
    teacher: TeacherResources = TeacherResources()
    search: SearchResources = SearchResources()
    validation_tokens: int | None = Field(8192, ge=1, description="generate: scored by every trial; null: all")
    test_tokens: int | None = Field(None, ge=1, description="generate: scored by the final comparison; null: all")
    explanation_ceiling: bool = Field(
        False, description="classify: teach the teacher twice, to see how far two teachers' reasons agree"
    )
    load_seconds: float = Field(8, ge=2, description="how long each finalist's endpoint is loaded at peak_rps")

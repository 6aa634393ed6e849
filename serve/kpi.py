"""What a release must reach and where it will live: the KPIs and the targets, as the recipe states them.

They lie in `serve` because a release carries them: the rollout is gated by the same file that the search was.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Frozen(BaseModel):
    """Frozen, keyword-only, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Target(Frozen):
    """A place where the model will run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,31}$")
    threads: int = Field(2, ge=1)
    memory_mb: float | None = Field(None, gt=0, description="peak of the serving process tree")
    rtt_ms: float = Field(0.0, ge=0, description="network round trip between the user and the target")
    price_per_hour: float = Field(ge=0, description="of one machine, in business.currency")
    slots: int = Field(8, ge=1, description="answers that a language model writes at once, each with a whole context")
    server: Literal["auto", "ray", "process"] = Field(
        "auto", description="Ray Serve, or one process; auto: one process below 2,048 MB"
    )

    @property
    def serves_with_ray(self) -> bool:
        """Ray Serve takes about a gigabyte before the first model is loaded."""
        if self.server == "auto":
            return self.memory_mb is None or self.memory_mb >= 2048
        return self.server == "ray"


class QualityKpi(Frozen):
    """Non-inferiority to the teacher, shown with `confidence`.

    A classifier's score may drop by less than `max_drop`. A language model's figures, all over the tokens that are
    answers: mean KL(teacher || student) in nats, perplexity over the teacher's, and the share of tokens that both find
    likeliest.
    """

    max_drop: float = Field(0.05, gt=0, lt=1, description="classify: absolute, of the task's score")
    confidence: float = Field(0.95, gt=0.5, lt=1)
    score: str = Field("accuracy", description="classify: a row of deshi.jobs.evidence.scores.SCORES")
    slice_least: float | None = Field(
        None, gt=0, lt=1, description="classify: score that every slice must reach, however well the teacher does there"
    )
    kl_mean: float | None = Field(None, gt=0, description="generate: at most, nats a token")
    perplexity_ratio: float | None = Field(None, gt=0, description="generate: at most, student over teacher")
    same_top: float | None = Field(None, gt=0, lt=1, description="generate: at least, share of the tokens")


class TokenLatency(Frozen):
    """What the readers of a written answer wait for, on every target, as they feel it."""

    first_token_p95: float | None = Field(None, gt=0, description="ms")
    per_token_p95: float | None = Field(None, gt=0, description="ms, mean of an answer's tokens after the first")


class Kpi(Frozen):
    """The targets of the three axes. What is left out is measured and shown, but gates nothing."""

    quality: QualityKpi = QualityKpi()
    latency_ms_p95: dict[str, Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict, description="by target, as the user feels it: engine, queue, HTTP and network"
    )
    latency_ms: TokenLatency = TokenLatency()
    size_mb: Annotated[float, Field(gt=0)] | None = Field(None, description="of what a target must hold to serve")
    memory_mb: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)
    cost_per_1000: dict[str, Annotated[float, Field(gt=0)]] = Field(default_factory=dict)

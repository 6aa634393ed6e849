"""`evidence.json`: every number the report shows, each with n, interval and how it was measured.

One schema, written by `poc.py`, read by the report and by `deshi verify`. The report is a pure function of
it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from deshi.jobs.evidence.business.business_schema import BusinessCase
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.migration.replacement_schema import Replacement
from deshi.jobs.evidence.risk.risk_schema import Risk
from deshi.jobs.evidence.vendor.vendor_schema import AskedModel
from deshi.serve.kpi import Frozen

Role = Literal["chosen", "teacher", "distilled", "control"]
KpiVerdict = Literal["PASS", "FAIL", "INCONCLUSIVE", "NO TARGET"]
Decision = Literal["ACCEPT", "REJECT", "INCONCLUSIVE"]


class SliceRow(Frozen):
    """The score of one slice, paired with the teacher on the same rows."""

    column: str
    value: str
    n: int
    score: Figure
    teacher_score: float
    drop: Figure
    harm_p: float | None = Field(None, description="Holm-adjusted p of `slice drops no more than the other rows`")
    harmed: bool = Field(False, description="proven to drop more than the other rows, and by more than the margin")


class Quality(Frozen):
    """One model on the test split, paired with the teacher row by row."""

    score: Figure
    drop: Figure | None = Field(None, description="teacher's score minus this one's; None for the teacher itself")
    mcnemar_p: float | None = None
    flips_to_wrong: int = 0
    flips_to_right: int = 0
    agreement: Figure | None = None
    kl: Figure | None = Field(None, description="KL(teacher || model), nats a row")
    calibration_error: Figure | None = None
    unknown_token_rate: Figure | None = None
    measures: dict[str, Figure] = Field(default_factory=dict, description="of a text: perplexity, kl_mean and others")
    slices: tuple[SliceRow, ...] = ()


class LatencyParts(Frozen):
    """What a request takes on one target, ms, at the recipe's peak_rps under open-loop load."""

    p50: Figure
    p95: Figure
    p99: Figure | None = None
    engine_p95: Figure
    queue_p95: Figure
    http_p95: Figure
    network: Figure
    first_token_p95: Figure | None = Field(None, description="of a written answer: until its first token")
    per_token_p95: Figure | None = Field(None, description="of a written answer: mean time of a token after the first")
    tokens_per_second: Figure | None = Field(None, description="written at once over all slots, closed loop")


class Timing(Frozen):
    """One engine build of a model at one shape of requests: what was tried, and whether it was taken."""

    build: str
    shape: str
    ms: Figure = Field(description="median of a call")
    ratio: Figure = Field(description="over the teacher's, interleaved in one window")
    taken: bool


class TargetRow(Frozen):
    """One model on one target."""

    target: str
    build: str
    builds: dict[str, str] = Field(default_factory=dict, description="shape class -> build, as served")
    tried: tuple[Timing, ...] = Field((), description="every build of this model that was timed here, at every shape")
    engine_ms: Figure = Field(description="median of one row of 16 tokens in the engine alone")
    ratio_to_teacher: Figure = Field(description="engine time over the teacher's, interleaved in one window")
    latency: LatencyParts | None = None
    throughput_rps: Figure | None = None
    memory_mb: Figure | None = None
    startup_s: Figure | None = Field(None, description="from the command to its first answer")
    energy_j: Figure | None = Field(None, description="a request at peak_rps, of the whole machine that tells it")
    size_mb: Figure
    machines: Figure | None = Field(None, description="whole machines for peak_rps within the latency limit")
    cost_per_1000: Figure | None = None
    cost_per_1000_full_use: Figure | None = Field(None, description="a lower bound only: never idle")


class ModelRow(Frozen):
    """The chosen student, the teacher, or a control: they stand in the same table."""

    id: str = Field(
        description="chosen | teacher | distilled (the best distilled student, where another model was chosen) | "
        "quantize-only | undistilled-pretrained | undistilled-teacher | static | live (the release that is live)"
    )
    role: Role
    digest: str
    chain: tuple[str, ...] = ()
    parameters: int | None = Field(description="None, as the shape is, of a model behind a URL")
    layers: int | None
    ffn: int | None
    vocabulary: int | None
    scheme: str
    training_steps: int
    quality: Quality
    targets: tuple[TargetRow, ...]
    asked: AskedModel | None = Field(None, description="of a model behind a URL, which has no weights here")


class LeftOut(Frozen):
    """A control that could not be made for this teacher, and why."""

    id: str
    reason: str


class TrialPoint(Frozen):
    """One trial of the search, as on the Pareto picture (validation figures only)."""

    number: int
    family: str
    chain: tuple[str, ...]
    rung: int
    score: float = Field(description="on the validation rows")
    agreement: float = Field(description="with the teacher, on held-out unlabelled rows")
    latency_ms: float
    size_mb: float
    on_front: bool
    chosen: bool


class WaterfallStep(Frozen):
    """The winner after one of its stages (validation score; latency on the first target)."""

    stage: str
    score: float
    latency_ms: float
    size_mb: float
    cost_per_1000: float | None


class OrderRow(Frozen):
    """One stage order at equal training budget; `illegal` says why it was not run."""

    name: str
    chain: tuple[str, ...]
    article: bool = Field(False, description="the order of the article this product follows")
    score: Figure | None = None
    agreement: Figure | None = None
    size_mb: float | None = None
    training_steps: int = 0
    illegal: str | None = None


class KpiRow(Frozen):
    """One KPI: target, measured value, interval, verdict."""

    axis: Literal["quality", "operations", "risk"]
    name: str
    limit: float | None
    limit_is: Literal["at most", "at least"]
    figure: Figure
    verdict: KpiVerdict


class Reason(Frozen):
    """Why a verdict is what it is: a code with words in each language, and the sentence in English."""

    code: str = Field(description="a key of deshi.jobs.evidence.verdict.SENTENCES")
    values: dict[str, str] = Field(default_factory=dict, description="what the sentence is filled with")
    text: str


class Verdict(Frozen):
    """Spoken after the test split was opened, once."""

    decision: Decision
    reasons: tuple[Reason, ...]
    rows_needed: int | None = Field(None, description="test rows that would settle an INCONCLUSIVE quality verdict")


class DataFacts(Frozen):
    """What the rows were and who got which labels."""

    rows: dict[str, int] = Field(description="train, unlabelled, agreement, calibration, validation, test")
    labels: dict[str, int] = Field(description="labels used for training, selection, test")
    classes: tuple[str, ...]
    truncated: dict[str, float] = Field(description="share of rows cut at max_length, by split")
    duplicates_dropped: int
    near_twins: int = Field(description="test rows with a near-twin among the rows that any model saw")
    fingerprints: dict[str, str]
    notes: tuple[str, ...] = Field((), description="what was dropped, held out and joined, one sentence each")


class Removed(Frozen):
    """What the winner no longer has."""

    layers: tuple[int, ...] = Field((), description="teacher layers dropped, counted from 0")
    ffn_share: float = 0.0
    vocabulary: int = 0
    parameters_share: float = 0.0
    bits: str = ""


class Evidence(Frozen):
    """All of it."""

    schema_version: Literal[1] = 1
    name: str
    task: str
    created: str = Field(description="UTC, ISO 8601")
    commit: str
    versions: dict[str, str]
    machine: dict[str, Any] = Field(description="cpu, cores, memory_gb, platform, gpu")
    recipe: dict[str, Any]
    currency: str
    score_name: str
    data: DataFacts
    models: tuple[ModelRow, ...]
    left_out: tuple[LeftOut, ...] = ()
    front: tuple[TrialPoint, ...]
    waterfall: tuple[WaterfallStep, ...]
    orders: tuple[OrderRow, ...]
    kpis: tuple[KpiRow, ...]
    verdict: Verdict
    removed: Removed
    replacement: Replacement | None = Field(None, description="of a judged model: in the place of the live one?")
    risk: Risk | None = None
    business: tuple[BusinessCase, ...] = Field((), description="one account a target")
    licences: dict[str, str]
    how: dict[str, str] = Field(default_factory=dict, description="what was done in words, by topic")
    seconds: dict[str, float] = Field(default_factory=dict, description="wall time by stage")

    def model_row(self, id: str) -> ModelRow | None:
        """The row of that id, if there is one."""
        return next((row for row in self.models if row.id == id), None)

"""The risk of the change as rows of the evidence: what may go wrong, how it was measured, and how one would notice."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deshi.jobs.evidence.figure import Figure
from deshi.serve.kpi import Frozen


class Explanations(Frozen):
    """How far teacher and student give the same reasons: agreement of word attributions on the same answers."""

    agreement: Figure
    ceiling: Figure | None = Field(None, description="of two teachers that differ by their seed")
    floor: Figure | None = Field(None, description="of the teacher and an untrained student")


class RiskRow(Frozen):
    """One line of the ledger. Words are texts `risk.<code>.title|sign|counter` filled with `values`."""

    code: str
    level: Literal["high", "medium", "low", "unknown"]
    figure: Figure | None = Field(None, description="how large the risk measured; None: not measured")
    effect: Figure | None = Field(None, description="measured effect of the counter-measure; None: not measured")
    values: dict[str, str] = Field(default_factory=dict)


class Changed(Frozen):
    """Which answers to the test rows are not the teacher's, counted; the rows lie in a separate file, if asked for."""

    rows: int = Field(description="test rows that were compared")
    to_wrong: int
    to_right: int
    between_wrong: int = Field(description="both wrong, differently")


class Risk(Frozen):
    """Of the chosen model, beside the teacher. What a task cannot tell is None."""

    confident_wrong: Figure | None = Field(None, description="share of test rows wrong with confidence of 0.9 or more")
    teacher_confident_wrong: Figure | None = None
    calibration_before: Figure | None = Field(None, description="expected calibration error at temperature 1")
    calibration_after: Figure | None = None
    error_cost_per_1000: Figure | None = Field(None, description="money, weighted by business.error_cost")
    teacher_error_cost_per_1000: Figure | None = None
    error_cost_difference_per_1000: Figure | None = Field(None, description="less the teacher's, paired row by row")
    explanations: Explanations | None = None
    rare_divergence: Figure | None = Field(
        None, description="full precision and quantized answer differently: share of the rows with the rarest words"
    )
    common_divergence: Figure | None = Field(None, description="the same on the other rows")
    changed: Changed | None = None
    ledger: tuple[RiskRow, ...] = ()

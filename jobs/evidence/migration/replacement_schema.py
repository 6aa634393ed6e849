"""Whether a judged model should take the place of the release that is live, as rows of the evidence."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deshi.jobs.evidence.figure import Figure
from deshi.serve.kpi import Frozen


class Replacement(Frozen):
    """The live release and the judged model on the same test rows and targets."""

    decision: Literal["replace", "keep"]
    reason: str = Field(description="a text `replacement.<reason>`")
    live: str = Field(description="the live run")
    digest: str = Field(description="of the live release's served folder")
    drop: Figure = Field(description="the live release's hits less the judged model's, paired row by row; unit share")
    hourly_cost: Figure = Field(description="of the judged model: whole machines at peak load over all targets")
    live_hourly_cost: Figure

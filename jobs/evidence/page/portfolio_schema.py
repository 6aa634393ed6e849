"""`portfolio.json`: several PoCs side by side, one row each, and what running them together took."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import Decision
from deshi.serve.kpi import Frozen

Step = Literal["scale", "more_data", "measure_again", "more_budget", "another_margin", "stop", "mend"]


class PortfolioRow(Frozen):
    """One recipe. What its evidence has no figure for is None."""

    name: str
    recipe: str = Field(description="the recipe file, as it was given")
    run: str | None = Field(None, description="its run folder, <storage>/<name>")
    decision: Decision | None = Field(None, description="None where it failed")
    error: str | None = None
    target: str | None = Field(None, description="whose account the money is: the recipe's first")
    drop: Figure | None = None
    monthly_saving: Figure | None = None
    payback_months: Figure | None = None
    risk: str | None = Field(None, description="code of the gravest row of the risk ledger")
    risk_values: dict[str, str] = Field(default_factory=dict)
    step: Step
    command: str = Field(description="exactly what to type next")
    rows_needed: int | None = None
    promise: float | None = Field(None, description="money a month that rung 0 suggests could be saved")
    minutes: float = Field(0, description="of training that it was given out of the shared budget")
    seconds: float = Field(description="wall time from its start to its end, both rounds")
    stage_seconds: float = Field(description="of it, inside stages")


class Portfolio(Frozen):
    """All of it."""

    schema_version: Literal[1] = 1
    created: str = Field(description="UTC, ISO 8601")
    commit: str
    budget_minutes: float = Field(description="of training, shared by all")
    seconds: float = Field(description="wall time of everything")
    rows: tuple[PortfolioRow, ...]

    @property
    def overhead(self) -> float:
        """Wall time over the sum of the recipes' stages."""
        return self.seconds / max(sum(row.stage_seconds for row in self.rows), 1e-9)

"""The tasks as a table: what differs between classifying and writing text, behind the same stages.

The driver, the search, the choice and the evidence ask for these pieces by the recipe's `task` and know nothing else
of it. A task joins by one row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    import pyarrow as pa

    from deshi.jobs.contender import Contender
    from deshi.jobs.evidence.answered import Answered
    from deshi.jobs.evidence.felt.endpoint import Felt
    from deshi.jobs.evidence.felt.latency import LatencyRow
    from deshi.jobs.evidence.risk.risk import Compared
    from deshi.jobs.evidence.risk.risk_schema import Risk
    from deshi.jobs.evidence.schema import DataFacts
    from deshi.jobs.finalist import Finalist
    from deshi.jobs.ladder import Line
    from deshi.jobs.recipe import Data, Recipe
    from deshi.jobs.session import Machine
    from deshi.jobs.stages.candidate import Candidate, Start
    from deshi.jobs.stages.lesson import Lesson
    from deshi.jobs.stages.spaces import Ground
    from deshi.jobs.storage import Output
    from deshi.serve.kpi import Target
    from deshi.serve.serving import ServedTarget, Serving


class Rows(Protocol):
    """The splits of a run, whatever a row holds."""

    def table(self, name: str) -> pa.Table:
        """The split of that name; its column `text` is what a model reads."""
        ...

    def facts(self, *, truncated: Mapping[str, float] | None = None) -> DataFacts:
        """What the evidence says of them."""
        ...

    def write(self, folder: Path) -> None:
        """One Parquet file a split, and what they are."""
        ...


@dataclass(frozen=True, kw_only=True)
class Task:
    """One row: the pieces by which a task differs.

    A `judge` gives `score`, `agreement` and `quality` of a build on validation rows, what the search ranks by.
    `answered` asks models a split's rows, paired with the teacher, which is one of them.
    """

    refuse: Callable[[Recipe], None]  # before any work
    make_splits: Callable[[Data, int], Rows]  # with the seed
    teach: Callable[[Lesson, Machine, str], Output]  # with the key of the teacher's own rows
    pretrained: Callable[[Lesson, str], Output]
    given: Callable[[Lesson, str], Output]  # a finished model that others made
    load: Callable[[Path], Any]  # a model folder's model, fp32, in evaluation mode
    ask: Callable[[Lesson, Machine], Lesson]  # answered
    yardstick: str  # the teacher's build that everything is timed beside
    runnable: Callable[[Recipe], tuple[str, ...]]  # builds that can be made and run here
    screen: Callable[[Sequence[LatencyRow], Sequence[str]], dict[str, tuple[str, ...]]]  # scheme -> builds to try
    typical: Callable[[Lesson], tuple[int, int]]  # one request, as `latency` takes a shape
    screened_at: Callable[[tuple[int, int]], Mapping[str, tuple[int, int]]]  # shapes that builds are screened at
    latency: Callable[..., list[LatencyRow]]
    ground: Callable[[Recipe, Path, Start, tuple[str, ...]], Ground]  # parent's model folder, schemes
    on_the_way: Callable[[Candidate, Lesson], tuple[Any, ...]]  # shapes at which a large cut stops and recovers
    cut_to: Callable[[Output, Any, Lesson], Output]  # one of those shapes
    cut_depth: Callable[[Output, Candidate, Lesson], Output]
    cut_width: Callable[[Output, Candidate, Lesson, Output | None, bool], Output]
    judge: Callable[[Lesson, Path, str, int], dict[str, Any]]  # served folder, build, threads
    ranked_on: Callable[[Lesson], tuple[int, int]]  # validation rows behind `score`, and behind `agreement`
    score_how: str
    agreement_how: str
    serving: Callable[[Lesson, Path, dict[str, ServedTarget]], Serving]
    one_request: str  # the shape class that stands for one request
    one_request_is: str  # in words
    fresh_start: bool  # a control may start from pretrained layers that the teacher's training has not touched
    untrained_speaks: bool  # what is cut and not trained still answers, and is a control
    felt: Callable[[Lesson, Finalist, Target], Felt]
    controls: Callable[[Sequence[Line], Line | None, int], dict[str, Candidate]]  # the winner's line, teacher's depth
    answered: Callable[[Lesson, Sequence[Contender], str], dict[str, Answered]]
    risk: Callable[[Lesson, Machine, Compared], Risk]
    facts: Callable[[Lesson], DataFacts]
    score_name: Callable[[Recipe], str]
    how: Mapping[str, str]  # what was done, in words


def task_of(recipe: Recipe) -> Task:
    """The row of the recipe's task."""
    return _table()[recipe.task]


@cache
def _table() -> dict[str, Task]:
    # Imported at first use: the stages ask for their task's pieces, and the pieces are made of stages.
    from deshi.jobs import classify, generate

    return {"classify": classify.TASK, "generate": generate.TASK}

"""A candidate: everything that makes one student what it is, as data, and the space that the search draws from.

Its `id` is a digest of its fields. Two candidates with the same fields are the same student, made once.
"""

from __future__ import annotations

from typing import Any, Literal, Protocol

from deshi.jobs.stages.orders import ORDERS
from deshi.jobs.storage import digest_of
from deshi.serve.kpi import Frozen

Start = Literal["teacher", "pretrained", "student-model"]
FFN_SHARES = (1.0, 0.75, 0.5, 0.25)
VOCABULARIES = ("seen", "all")
DEPTHS_BY = ("even", "first", "influence")


class Candidate(Frozen):
    """One student. `steps` is the whole training budget over all stages of its chain; 0 trains nothing."""

    family: Literal["transformer", "static"] = "transformer"
    start: Start = "teacher"
    told: Literal["answers", "labels"] = "answers"
    order: str = "prune-quantize"
    layers: int = 0
    depth_by: str = "even"
    ffn: float = 1.0
    vocabulary: str = "all"
    scheme: str = "w8a8"
    steps: int = 0

    @property
    def id(self) -> str:
        """12 hex digits over the fields."""
        return digest_of(self.model_dump())[:12]

    @property
    def chain(self) -> tuple[str, ...]:
        """The stages in order; a static student has the one that makes it."""
        return ("static",) if self.family == "static" else ORDERS[self.order].chain

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a trained and an untrained candidate have in common."""
        return (self.family, self.start, self.layers, self.depth_by, self.ffn, self.vocabulary, self.scheme)

    @property
    def is_pruned(self) -> bool:
        """Whether anything but depth is cut."""
        return self.ffn < 1.0 or self.vocabulary != "all"

    def trained(self, order: str, steps: int) -> Candidate:
        """The same shape, made in this order with this budget."""
        return self.model_copy(update={"order": order, "steps": steps})


class Suggests(Protocol):
    """The part of `optuna.Trial` that the space needs."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of `choices`."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        ...


def draw(trial: Suggests, *, start: Start, depth: int, schemes: tuple[str, ...]) -> Candidate:
    """A rung-0 candidate: a shape and a scheme, with nothing trained."""
    layers = trial.suggest_int("layers", 1, depth)
    depth_by = trial.suggest_categorical("depth_by", DEPTHS_BY)
    return Candidate(
        start=start,
        order="prune-quantize",
        layers=layers,
        depth_by=depth_by if layers < depth else DEPTHS_BY[0],  # all layers are the same layers however chosen
        ffn=trial.suggest_categorical("ffn", FFN_SHARES),
        vocabulary=trial.suggest_categorical("vocabulary", VOCABULARIES),
        scheme=trial.suggest_categorical("scheme", schemes),
    )

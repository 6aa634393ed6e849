"""A candidate: everything that makes one student what it is, as data, and the space that the search draws from.

Its `id` is a digest of its fields. Two candidates with the same fields are the same student, made once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from deshi.jobs.stages.orders import ORDERS
from deshi.jobs.storage import digest_of
from deshi.serve.kpi import Frozen

Start = Literal["teacher", "pretrained", "student-model"]


class Candidate(Frozen):
    """One student; a `given` one was made by others and is judged as it came.

    `steps` is the whole training budget over all stages of its chain; 0 trains nothing. `ffn` is the share of the
    feed-forward width that stays; `kv_groups` and `hidden` count what stays of the attention groups and of the hidden
    width, 0 being all of it.
    """

    family: Literal["transformer", "static", "given"] = "transformer"
    start: Start = "teacher"
    told: Literal["answers", "labels"] = "answers"
    order: str = "prune-quantize"
    layers: int = 0
    depth_by: str = "even"
    ffn: float = 1.0
    kv_groups: int = 0
    hidden: int = 0
    vocabulary: str = "all"
    scheme: str = "w8a8"
    steps: int = 0

    @property
    def id(self) -> str:
        """12 hex digits over the fields."""
        return digest_of(self.model_dump())[:12]

    @property
    def chain(self) -> tuple[str, ...]:
        """The stages in order; a static student has the one that makes it, a given one none."""
        if self.family == "transformer":
            return ORDERS[self.order].chain
        return ("static",) if self.family == "static" else ()

    @property
    def shape(self) -> tuple[Any, ...]:
        """What a trained and an untrained candidate have in common."""
        return (self.family, self.start, self.layers, self.depth_by, *self.width, self.vocabulary, self.scheme)

    @property
    def width(self) -> tuple[float, int, int]:
        """What is left of feed-forward, attention groups and hidden width."""
        return self.ffn, self.kv_groups, self.hidden

    @property
    def is_pruned(self) -> bool:
        """Whether anything but depth is cut."""
        return self.width != WHOLE or self.vocabulary != "all"

    def trained(self, order: str, steps: int) -> Candidate:
        """The same shape, made in this order with this budget."""
        return self.model_copy(update={"order": order, "steps": steps})


WHOLE = (1.0, 0, 0)  # the width of a candidate from which none is cut


@dataclass(frozen=True, kw_only=True)
class Space:
    """What rung 0 draws from: the fewest and the most layers, and the choices of other fields of `Candidate`."""

    layers: tuple[int, int]
    choices: Mapping[str, tuple[Any, ...]]


class Suggests(Protocol):
    """The part of `optuna.Trial` that the space needs."""

    def suggest_categorical(self, name: str, choices: Any) -> Any:
        """One of `choices`."""
        ...

    def suggest_int(self, name: str, low: int, high: int) -> int:
        """An integer from `low` to `high`, both included."""
        ...


def draw(trial: Suggests, space: Space, *, start: Start) -> Candidate:
    """A rung-0 candidate: a shape and a scheme, with nothing trained."""
    layers = trial.suggest_int("layers", *space.layers)
    chosen = {name: trial.suggest_categorical(name, options) for name, options in space.choices.items()}
    if "depth_by" in chosen and layers == space.layers[1]:  # all layers are the same layers however chosen
        chosen["depth_by"] = space.choices["depth_by"][0]
    return Candidate(start=start, order="prune-quantize", layers=layers, **chosen)

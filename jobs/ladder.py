"""The ladder the search climbs: which candidate comes next, as a pure function of what is finished.

Rung 0 trains nothing: Optuna's multi-objective TPE draws shapes (depth, FFN width, vocabulary, scheme), each is pruned,
its head refitted in closed form, and measured. Rung 1 trains what is promising: first one shape in every legal stage
order at equal budget, then the best order on the other shapes of the front.

What comes next is a function of the finished trials, the recipe and the seed: each suggestion builds a fresh study from
the ledger (`study.add_trial`) and a sampler seeded by its length. A killed search therefore goes on as if it had not
been killed (at one trial at a time), and `Tuner.restore`, which unpickles and repeats finished trials, is not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deshi.jobs.stages.candidate import Candidate, Space, Start, draw
from deshi.jobs.stages.orders import TRAINING, Order, legal

Line = dict[str, Any]
WORST = {"quality": 0.0, "latency_ms": 1e6, "size_mb": 1e6}


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What the ladder climbs.

    `max_drop` and `size_mb` are the KPIs (infinite where there is none); `depth` counts the layers of what students
    start from, `teacher_depth` those of the teacher. `first` is the recipe's own student; it and `fixed` are tried
    before anything is drawn.
    """

    trials: int
    minutes: float
    steps: int
    seed: int
    max_drop: float
    size_mb: float
    start: Start
    depth: int
    teacher_depth: int
    space: Space
    orders: tuple[Order, ...]
    first: Candidate
    fixed: tuple[Candidate, ...]

    @property
    def trained(self) -> int:
        """How many of the trials may train: a third, and at least one where there are two."""
        return 0 if self.minutes == 0 else max(self.trials // 3, min(1, self.trials - 1))

    @property
    def training_orders(self) -> tuple[Order, ...]:
        """The orders that can be run and that train."""
        return tuple(
            order
            for order in self.orders
            if legal(order.chain, parent_kept=True) is None and any(stage in TRAINING for stage in order.chain)
        )


def suggest(plan: Plan, done: Sequence[Line], running: Sequence[str]) -> Candidate | str:
    """The next candidate; "wait" until running trials are finished; "stop" when the ladder is climbed.

    `done` are the ledger's lines in order, `running` the ids of candidates that are being made.
    """
    taken = {line["id"] for line in done} | set(running)
    bottom = [line for line in done if line["rung"] == 0]
    top = [line for line in done if line["rung"] == 1]
    untrained = plan.trials - plan.trained
    if len(done) + len(running) >= plan.trials:
        return "wait" if running else "stop"
    if len(bottom) + len(running) < untrained and not top:
        candidate = _draw_untrained(plan, bottom, taken)
        if candidate is not None:
            return candidate
    if running and not top and len(bottom) < untrained:
        return "wait"
    if top and _spent(top) + _mean_seconds(top) * (1 + len(running)) > plan.minutes * 60:
        return "wait" if running else "stop"
    candidate = _draw_trained(plan, bottom, top, taken)
    if candidate is None:
        return "wait" if running else "stop"
    return candidate


def most_left(plan: Plan, done: Sequence[Line]) -> float:
    """Seconds that the rest of the search takes at most: rung 0 at its pace so far, then what `minutes` allows."""
    bottom = [line for line in done if line["rung"] == 0]
    top = [line for line in done if line["rung"] == 1]
    untrained = 0 if top else max(0, plan.trials - plan.trained - len(bottom))
    pace = _mean_seconds(bottom) if bottom else 0.0
    return untrained * pace + (max(0.0, plan.minutes * 60 - _spent(top)) if len(done) < plan.trials else 0.0)


def _draw_untrained(plan: Plan, bottom: Sequence[Line], taken: set[str]) -> Candidate | None:
    for candidate in (plan.first, *plan.fixed):
        if candidate.id not in taken:
            return candidate
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(directions=["maximize", "minimize", "minimize"])
    distributions: dict[str, Any] = {"layers": optuna.distributions.IntDistribution(*plan.space.layers)}
    for name, options in plan.space.choices.items():
        distributions[name] = optuna.distributions.CategoricalDistribution(options)
    drawn = [line for line in bottom if "params" in line]
    for line in drawn:
        study.add_trial(
            optuna.trial.create_trial(
                params=line["params"],
                distributions=distributions,
                values=[line[name] for name in WORST],
            )
        )
    study.sampler = optuna.samplers.TPESampler(
        seed=plan.seed * 10_007 + len(taken), n_startup_trials=6, multivariate=True
    )
    for _ in range(64):
        candidate = draw(study.ask(), plan.space, start=plan.start)
        if candidate.id not in taken:
            return candidate
    return None  # the space is as good as exhausted


def params_of(candidate: Candidate, space: Space) -> dict[str, Any] | None:
    """What Optuna must be told of a candidate; None for one that the space cannot draw."""
    if candidate.family == "static" or candidate.order != "prune-quantize":
        return None
    params = candidate.model_dump(include={"layers", *space.choices})
    outside = [name for name, options in space.choices.items() if params[name] not in options]
    return None if outside or not space.layers[0] <= candidate.layers <= space.layers[1] else params


def _draw_trained(plan: Plan, bottom: Sequence[Line], top: Sequence[Line], taken: set[str]) -> Candidate | None:
    shapes = promising(bottom, plan)
    if not shapes or not plan.training_orders:
        return None
    best = best_order(top, shapes[0], plan)
    in_turn = [in_order(shapes[0], order, plan) for order in plan.training_orders]
    in_turn += [in_order(shape, best, plan) for shape in shapes[1:]]
    return next((one for one in in_turn if one.id not in taken and _trainable(one, plan)), None)


def in_order(shape: Candidate, order: Order, plan: Plan) -> Candidate:
    """A shape made in an order with the whole budget; an order without `prune` leaves the width as it is."""
    trained = shape.trained(order.name, plan.steps)
    return (
        trained
        if "prune" in order.chain
        else trained.model_copy(update={"ffn": 1.0, "kv_groups": 0, "hidden": 0, "vocabulary": "all"})
    )


def best_order(top: Sequence[Line], shape: Candidate, plan: Plan) -> Order:
    """The order that gave `shape` the best quality; among the orders that prune."""
    named = {order.name: order for order in plan.training_orders}
    lines = [line for line in top if line.get("error") is None and Candidate(**line["candidate"]).shape == shape.shape]
    if not lines:
        return plan.training_orders[0]
    best = max(lines, key=lambda line: (line["quality"], line["id"]))
    return named[best["candidate"]["order"]]


def promising(bottom: Sequence[Line], plan: Plan) -> list[Candidate]:
    """Shapes worth training: the recipe's own first, then those that training may lift over the bar, nearest first.

    The bar is the best quality of rung 0 less `max_drop`. A shape above it holds without a lesson and comes last; one
    that is too large stays so however long it is taught. Among equals, the front of quality, latency and size leads
    (non-dominated sorting, Deb et al. 2002).
    """
    good = [line for line in bottom if line.get("error") is None]
    bar = max((line["quality"] for line in good), default=0.0) - plan.max_drop
    left = [
        line for line in good if _trainable(Candidate(**line["candidate"]), plan) and line["size_mb"] <= plan.size_mb
    ]
    fronts: list[list[Line]] = []
    while left:
        fronts.append([line for line in left if not any(dominates(other, line) for other in left)])
        left = [line for line in left if line not in fronts[-1]]
    in_turn = sorted(
        (line["quality"] >= bar, number, -line["quality"], line["id"], line["candidate"])
        for number, front in enumerate(fronts)
        for line in front
    )
    failed = {line["id"] for line in bottom if line.get("error") is not None}
    ranked = [plan.first] if _trainable(plan.first, plan) and plan.first.id not in failed else []
    ranked += [Candidate(**candidate) for *_, candidate in in_turn]
    unique: dict[tuple[Any, ...], Candidate] = {}
    for candidate in ranked:
        unique.setdefault(candidate.shape, candidate)
    return list(unique.values())


def _trainable(candidate: Candidate, plan: Plan) -> bool:
    """Whether there is something to teach: layers of the teacher, whole and uncut, are the teacher."""
    if candidate.family != "transformer":
        return False
    return plan.start != "teacher" or candidate.layers < plan.depth or candidate.is_pruned


def dominates(one: Line, other: Line) -> bool:
    """Whether `one` is at least as good in quality, latency and size, and better in one of them."""
    pairs = [(one[name], other[name]) for name in ("latency_ms", "size_mb")] + [(-one["quality"], -other["quality"])]
    return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)


def _spent(lines: Sequence[Line]) -> float:
    return float(sum(line["seconds"] for line in lines))


def _mean_seconds(lines: Sequence[Line]) -> float:
    return _spent(lines) / len(lines)

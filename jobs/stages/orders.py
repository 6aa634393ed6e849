"""Stage orders as data: what the search may try, what each means, and which chains cannot be.

A chain is a tuple of stages. `distill` trains on the teacher's answers; `prune` cuts layers, FFN and
vocabulary and refits the head in closed form; `recover` is `distill` again after a cut; `quantize` names a
scheme. The article this product follows distils first, then quantizes and prunes (rows marked `article`); the
literature disagrees with itself, so the order is a variable of the search, at equal training budget: however
many training stages a chain has, their steps sum to the recipe's `distill.steps`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

STAGES = ("distill", "prune", "recover", "quantize")
TRAINING = ("distill", "recover")


@dataclass(frozen=True, kw_only=True)
class Order:
    """One row: a name for the recipe and the report, the chain, and whether it is the article's own order."""

    name: str
    chain: tuple[str, ...]
    article: bool = False


# In the order in which they are tried while minutes last: the cheapest training first (a pruned student is the faster
# apprentice), then those that share one distillation.
_ROWS = (
    Order(name="prune-distil-quantize", chain=("prune", "distill", "quantize")),
    Order(name="distil-prune-quantize", chain=("distill", "prune", "quantize")),
    Order(name="distil-quantize-prune", chain=("distill", "quantize", "prune"), article=True),
    Order(name="distil-quantize", chain=("distill", "quantize")),
    Order(name="distil-prune-recover-quantize", chain=("distill", "prune", "recover", "quantize")),
    Order(name="prune-quantize", chain=("prune", "quantize")),
    Order(name="quantize-only", chain=("quantize",)),
    Order(name="prune-quantize-distil", chain=("prune", "quantize", "distill")),
    Order(name="quantize-distil", chain=("quantize", "distill")),
)
ORDERS: dict[str, Order] = {order.name: order for order in _ROWS}


def named(names: Literal["auto"] | Sequence[str]) -> tuple[Order, ...]:
    """The rows asked for; "auto" is every row, the illegal ones too: the report shows them with the reason.

    Raises:
        ValueError: if a name is no row.
    """
    if names == "auto":
        return tuple(ORDERS.values())
    for name in names:
        if name not in ORDERS:
            raise ValueError(f"search.orders names {name!r}, which is no stage order; use {', '.join(ORDERS)}")
    return tuple(ORDERS[name] for name in dict.fromkeys(names))


def legal(chain: Sequence[str], *, parent_kept: bool) -> str | None:
    """None if the chain can be run, else the reason why not, in one sentence.

    `parent_kept`: the full-precision model that was quantized is at hand, so that the quantized form can be
    built again from it after a cut. It is for what Deshi quantized; it is not for a model that came
    quantized.
    """
    if not chain:
        return "the chain is empty; name at least one stage"
    for stage in chain:
        if stage not in STAGES:
            return f"{stage!r} is no stage; use {', '.join(STAGES)}"
    for stage in STAGES:
        if list(chain).count(stage) > 1:
            return f"{stage} stands twice; {_ONCE[stage]}"
    if "recover" in chain and "prune" not in chain[: chain.index("recover")]:
        return "recover stands before any prune, so nothing is lost that it could recover; put it after prune"
    if "quantize" not in chain:
        return None
    later = chain[chain.index("quantize") + 1 :]
    for stage in later:
        if stage in TRAINING:
            return (
                f"{stage} after quantize needs quantization-aware training, since plain training would undo "
                f"the rounding; put {stage} before quantize"
            )
    if "prune" in later and not parent_kept:
        return (
            "prune after quantize needs the full-precision parent, from which the quantized form is built "
            "again; keep the parent or put prune before quantize"
        )
    return None


_ONCE = {
    "distill": "training after a cut is called recover",
    "prune": "a trial makes one cut to its final shape; choose the smaller shape at once",
    "recover": "make its step budget larger instead",
    "quantize": "rounding the rounded loses twice and gains nothing",
}


def training_steps(chain: Sequence[str], budget: int) -> dict[int, int]:
    """Stage index -> training steps; an equal budget for every chain, shared evenly, odd steps to the first.

    Raises:
        ValueError: if the budget does not give every training stage a step.
    """
    places = [place for place, stage in enumerate(chain) if stage in TRAINING]
    if not places:
        return {}
    if budget < len(places):
        raise ValueError(
            f"distill.steps {budget} is fewer than the {len(places)} training stages of "
            f"{'-'.join(chain)}; give at least {len(places)}"
        )
    share, odd = divmod(budget, len(places))
    return {place: share + (number < odd) for number, place in enumerate(places)}

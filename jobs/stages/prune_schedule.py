"""Shapes of a language model, and the way from one to a much smaller one in several rounds of prune and recover.

A student far from its teacher is not reached in one cut: what is left no longer works and importance measured
on it says little. So no round removes more than half (`most`) of the parameters of the layers, and the model
is recovered between rounds (Minitron, arXiv 2407.14679, section 4; Sheared LLaMA, arXiv 2310.06694).

The parameters of a layer in the Llama layout, biases left out:
    hidden x head_dim x kv_groups x (2 x heads_per_group + 2)  +  3 x hidden x ffn  +  2 x hidden
Embeddings are not counted: they are cut by the vocabulary, and with the hidden width they follow the layers.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from deshi.jobs.stages.architectures import decoder_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

WIDTH_MULTIPLE = 32  # GGUF's Q8_0 and Q4_0 keep one scale for 32 weights of a row; GPU kernels like it too
MOST_ROUNDS = 100
AXES = ("layers", "ffn", "kv_groups", "hidden")


@dataclass(frozen=True, kw_only=True)
class Shape:
    """What pruning can change of a model (layers, ffn, kv_groups, hidden), and what goes with it unchanged."""

    layers: int
    ffn: int
    kv_groups: int  # key-value heads, each with its query heads
    hidden: int
    heads_per_group: int
    head_dim: int
    heads_divide_hidden: bool = False  # the config class refuses a hidden size that the heads do not divide

    @property
    def heads(self) -> int:
        """Query heads."""
        return self.kv_groups * self.heads_per_group

    @property
    def parameters(self) -> int:
        """Parameters of all layers, biases left out."""
        attention = self.hidden * self.head_dim * self.kv_groups * (2 * self.heads_per_group + 2)
        return self.layers * (attention + 3 * self.hidden * self.ffn + 2 * self.hidden)

    def hidden_multiple(self, multiple: int) -> int:
        """What a hidden width of this many heads must be a multiple of."""
        return math.lcm(multiple, self.heads) if self.heads_divide_hidden else multiple


def shape_of(config: PretrainedConfig) -> Shape:
    """The shape that a causal language model's config describes."""
    row = decoder_of(config)
    heads, groups = int(config.num_attention_heads), int(config.num_key_value_heads)
    return Shape(
        layers=row.depth(config),
        ffn=row.ffn(config),
        kv_groups=groups,
        hidden=int(config.hidden_size),
        heads_per_group=heads // groups,
        head_dim=int(getattr(config, "head_dim", None) or config.hidden_size // heads),
        heads_divide_hidden=row.heads_divide_hidden,
    )


def check_goal(start: Shape, goal: Shape, *, multiple: int = WIDTH_MULTIPLE) -> None:
    """Refuses a goal that cannot be cut out of `start`, or that kernels and formats could not hold.

    Raises:
        ValueError: if an axis is out of range or not of its multiple.
    """
    for axis in AXES:
        new, old = getattr(goal, axis), getattr(start, axis)
        step = {"ffn": multiple, "hidden": goal.hidden_multiple(multiple)}.get(axis, 1)
        # a whole axis stays as it is, unless fewer heads no longer divide the hidden size
        if axis == "hidden" and new == old and goal.heads_divide_hidden and new % goal.heads:
            raise ValueError(
                f"hidden {new} is no multiple of the {goal.heads} heads that stay, which this architecture requires; "
                f"take another kv_groups, or a hidden of {list(range(step, old, step))}"
            )
        if not 1 <= new <= old or (new != old and new % step):
            raise ValueError(f"{axis} {new} must be a multiple of {step} from {min(step, old)} to {old}, the whole")


def prune_schedule(
    start: Shape, goal: Shape, *, most: float = 0.5, multiple: int = WIDTH_MULTIPLE
) -> tuple[Shape, ...]:
    """The shapes to pass through, the last one `goal`: no round removes more than `most` of the parameters it meets.

    Every axis shrinks by the same ratio a round, rounded to what the axis can be and never upwards again.

    Raises:
        ValueError: if the goal is not within `start` or no whole steps are as small as that.
    """
    check_goal(start, goal, multiple=multiple)
    if not 0 < most < 1:
        raise ValueError(f"most {most} is the part of the parameters a round may remove; take one between 0 and 1")
    for rounds in range(1, MOST_ROUNDS + 1):
        shapes = [_between(start, goal, place / rounds, multiple) for place in range(1, rounds)] + [goal]
        passed = [new for old, new in pairwise([start, *shapes]) if new != old] or [goal]
        if all(_fits(old, new, most) for old, new in pairwise([start, *passed])):
            return tuple(passed)
    raise ValueError(
        f"no whole steps from {start} to {goal} remove at most {most:.0%} each; allow a larger part or a nearer goal"
    )


def _fits(old: Shape, new: Shape, most: float) -> bool:
    """Whether a round can go from `old` to `new`: no axis grows, and few enough parameters go."""
    shrinks = all(getattr(new, axis) <= getattr(old, axis) for axis in AXES)
    return shrinks and new.parameters >= (1 - most) * old.parameters


def _between(start: Shape, goal: Shape, part: float, multiple: int) -> Shape:
    """The shape after `part` of the way, on a geometric line on each axis."""

    def at(axis: str, step: int) -> int:
        new, old = getattr(goal, axis), getattr(start, axis)
        wished = old * (new / old) ** part
        return old if new == old else min(old, max(new, round(wished / step) * step))

    fewer = replace(start, layers=at("layers", 1), ffn=at("ffn", multiple), kv_groups=at("kv_groups", 1))
    hidden = at("hidden", fewer.hidden_multiple(multiple))
    if fewer.heads_divide_hidden and hidden % fewer.heads:  # the old width does not suit this many heads
        return replace(fewer, kv_groups=start.kv_groups, hidden=at("hidden", start.hidden_multiple(multiple)))
    return replace(fewer, hidden=hidden)

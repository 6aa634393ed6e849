"""What the search draws from, by task: the axes of a student's shape, the recipe's own student, those tried first."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from deshi.jobs.data.model_folder import describe
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.candidate import Candidate, Space, Start
from deshi.jobs.stages.prune_schedule import Shape, check_goal, shape_of


@dataclass(frozen=True, kw_only=True)
class Ground:
    """The space, the recipe's own student (tried first), and the candidates that follow it before anything is drawn."""

    space: Space
    first: Candidate
    fixed: tuple[Candidate, ...]


def of_classifier(recipe: Recipe, parent: Path, start: Start, schemes: tuple[str, ...]) -> Ground:
    """Layers, how they are picked, feed-forward width, vocabulary and scheme; and the static student."""
    depth = describe(parent).layers
    whole = Candidate(start=start, order="quantize-only", layers=depth, scheme=schemes[0])
    halved = whole.model_copy(update={"order": "prune-quantize", "ffn": 0.5, "vocabulary": "seen"})
    static = Candidate(family="static", order="static", layers=0, scheme="fp32")
    return Ground(
        space=Space(
            layers=(1, depth),
            choices={
                "depth_by": ("even", "first", "influence"),
                "ffn": (1.0, 0.75, 0.5, 0.25),
                "vocabulary": ("seen", "all"),
                "scheme": schemes,
            },
        ),
        first=Candidate(
            start=start,
            layers=recipe.student.layers or (max(1, depth // 2) if start == "teacher" else depth),
            ffn=recipe.student.ffn or 0.5,
            vocabulary="seen",
            scheme=schemes[0],
        ),
        fixed=(whole, halved, static) if start == "teacher" else (static,),
    )


def of_language_model(recipe: Recipe, parent: Path, start: Start, schemes: tuple[str, ...]) -> Ground:
    """At least half of the layers, feed-forward width, attention groups where fewer are legal, and scheme.

    The teacher whole and the recipe's own student are tried in every scheme first: size is bought by rounding or by
    cutting, and which is dearer is the question.
    """
    from transformers import AutoConfig

    whole = shape_of(AutoConfig.from_pretrained(parent, trust_remote_code=False))
    asked = recipe.student
    first = Candidate(
        start=start,
        layers=asked.layers or (max(1, round(0.8 * whole.layers)) if start == "teacher" else whole.layers),
        depth_by="influence",
        ffn=asked.ffn or 1.0,
        kv_groups=asked.kv_groups or 0,
        hidden=asked.hidden or 0,
        # Not the coarsest: what it loses by rounding would hide what the student lost and learned.
        scheme=schemes[min(1, len(schemes) - 1)],
    )
    rounded = [Candidate(start=start, order="quantize-only", layers=whole.layers, scheme=scheme) for scheme in schemes]
    return Ground(
        space=Space(
            layers=(max(1, whole.layers // 2), whole.layers),
            choices={
                "depth_by": ("influence", "even"),
                "ffn": (1.0, 0.75, 0.5),
                "kv_groups": (0, *(count for count in range(1, whole.kv_groups) if _legal(whole, count))),
                "hidden": tuple(sorted({0, first.hidden})),
                "scheme": schemes,
            },
        ),
        first=first,
        fixed=(
            *rounded,
            *(first.model_copy(update={"scheme": scheme}) for scheme in schemes if scheme != first.scheme),
        ),
    )


def _legal(whole: Shape, kv_groups: int) -> bool:
    """Whether so few attention groups are worth drawing: at least half, and what the architecture can describe."""
    try:
        check_goal(whole, replace(whole, kv_groups=kv_groups))
    except ValueError:
        return False
    return 2 * kv_groups >= whole.kv_groups

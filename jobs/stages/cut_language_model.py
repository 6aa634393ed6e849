"""Cutting a language model: layers by block influence or evenly, then feed-forward, attention groups and hidden width.

Each cut is a finished output. What is cut is judged on packed calibration rows of the run's own text. A classifier's
cuts are in `cut_classifier.py`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from deshi.jobs.data.model_folder import check_model_folder
from deshi.jobs.data.packing import collate
from deshi.jobs.stages.candidate import WHOLE, Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.prune_schedule import AXES, WIDTH_MULTIPLE, Shape, prune_schedule, shape_of
from deshi.jobs.stages.sequence_batches import packed_rows
from deshi.jobs.storage import Output

CALIBRATION_TOKENS = 4096  # a forward over them takes 8 s on two cores


def cut_depth(source: Output, candidate: Candidate, lesson: Lesson) -> Output:
    """The parent's kept layers."""
    inputs = {"source": source.key, "layers": candidate.layers, "by": candidate.depth_by, "splits": lesson.splits_key}

    def build(out: Path) -> None:
        from deshi.jobs.stages import importance, prune, prune_lm

        folder = source.path / "model"
        model = prune_lm.load_language_model(folder)
        judged: Any = candidate.depth_by
        if judged == "influence":
            judged = importance.block_influence(model, calibration_rows(lesson, folder))
        kept = prune.keep_layers(candidate.layers, model.config.num_hidden_layers, judged)
        prune_lm.prune_lm(folder, out / "model", calibration=(), layers=kept)
        (out / "kept.txt").write_text(" ".join(map(str, kept)), encoding="utf-8")

    return lesson.storage.stage("depth", inputs, build)


def cut_width(
    source: Output, candidate: Candidate, lesson: Lesson, judged_by: Output | None, shallower: bool
) -> Output:
    """Feed-forward width, attention groups and hidden width; the source itself where none of them is cut.

    `judged_by` is the rounded model where the chain quantizes first: importance is that of its channels.
    """
    if candidate.width == WHOLE:
        return source
    inputs = {
        "source": source.key,
        "goal": vars(goal_of(candidate, lesson)),
        "judged_by": judged_by.key if judged_by else None,
        "splits": lesson.splits_key,
    }

    def build(out: Path) -> None:
        from deshi.jobs.stages import prune_lm

        folder, goal = source.path / "model", goal_of(candidate, lesson)
        prune_lm.prune_lm(
            folder,
            out / "model",
            calibration=calibration_rows(lesson, folder),
            ffn=goal.ffn,
            kv_groups=goal.kv_groups,
            hidden=goal.hidden,
            judge_folder=judged_by.path / "model" if judged_by else None,
        )

    return lesson.storage.stage("prune", inputs, build)


def on_the_way(candidate: Candidate, lesson: Lesson) -> tuple[Shape, ...]:
    """Shapes to stop and recover at where less than half of the parent is to be left; none else (prune_schedule.py)."""
    return prune_schedule(_parent_shape(candidate, lesson), goal_of(candidate, lesson))[:-1]


def cut_to(source: Output, shape: Shape, lesson: Lesson) -> Output:
    """Everything cut to a shape, the layers by block influence."""
    inputs = {"source": source.key, "shape": vars(shape), "splits": lesson.splits_key}

    def build(out: Path) -> None:
        from deshi.jobs.stages import prune_lm

        folder = source.path / "model"
        axes = {axis: getattr(shape, axis) for axis in AXES}
        prune_lm.prune_lm(folder, out / "model", calibration=calibration_rows(lesson, folder), **axes)

    return lesson.storage.stage("prune", inputs, build)


def goal_of(candidate: Candidate, lesson: Lesson) -> Shape:
    """The shape that a candidate comes to; shares are of its parent's."""
    whole = _parent_shape(candidate, lesson)
    return replace(
        whole,
        layers=min(candidate.layers, whole.layers),
        ffn=ffn_width(whole.ffn, candidate.ffn),
        kv_groups=candidate.kv_groups or whole.kv_groups,
        hidden=candidate.hidden or whole.hidden,
    )


def _parent_shape(candidate: Candidate, lesson: Lesson) -> Shape:
    from transformers import AutoConfig

    model = lesson.recipe.student.model if candidate.start == "student-model" else None
    folder = lesson.teacher if model is None else check_model_folder(model)
    return shape_of(AutoConfig.from_pretrained(folder, trust_remote_code=False))


def ffn_width(whole: int, share: float) -> int:
    """The width that a share comes to: whole, or a multiple that block formats take."""
    return whole if share >= 1 else max(WIDTH_MULTIPLE, int(whole * share) // WIDTH_MULTIPLE * WIDTH_MULTIPLE)


def calibration_rows(lesson: Lesson, folder: Path) -> list[dict[str, Any]]:
    """Packed rows of calibration text, [1, tokens] each, with positions that restart at every sequence."""
    most = lesson.recipe.data.max_length
    sequences = lesson.sequence_splits.sequences("calibration", folder, max_length=most)
    rows, tokens, taken = packed_rows(sequences, max_length=most, packing=True, seed=lesson.recipe.seed), 0, []
    for row in rows:
        batch = collate([row], input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=0)
        real = int(sequences.lengths[list(row)].sum())  # padding has no sequence, and no say in what is important
        taken.append({name: batch[name][:, :real] for name in ("input_ids", "position_ids")})
        tokens += real
        if tokens >= CALIBRATION_TOKENS:
            break
    if not taken:
        raise ValueError("no calibration row has anything to learn; check data.format, data.column and data.loss_on")
    return taken

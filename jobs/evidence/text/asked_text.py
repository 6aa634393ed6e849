"""What language models were asked on held-out text, kept: likelihoods beside the teacher's, choices, own answers.

Each model's answers are a finished output, so a comparison that was killed goes on with the next model. The teacher is
read in full precision; what stands beside it is read as its build rounds it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deshi.jobs.contender import Contender
from deshi.jobs.evidence.answered import Answered
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.schema import DataFacts, Quality
from deshi.jobs.evidence.text import choices, measure_text, text_scores, written_answers
from deshi.jobs.evidence.text.text_quality import Asked, text_quality
from deshi.jobs.evidence.text.text_scores import TeacherStates, TokenScores
from deshi.jobs.evidence.text.text_statistics import text_slices
from deshi.jobs.evidence.text.written_answers import WrittenAnswer
from deshi.jobs.finalist import local_threads
from deshi.jobs.stages.lesson import Lesson
from deshi.serve.serving import ANY_SHAPE, MODEL_FOLDER


def answered(lesson: Lesson, contenders: Sequence[Contender], split: str) -> dict[str, Answered]:
    """Each contender on a split, paired with the teacher token by token.

    The score is the share of the tokens that the model and the teacher find likeliest, so the teacher's is 1. Choices,
    own answers and text of another domain are asked with the test rows only.
    """
    recipe = lesson.recipe
    items = choices.make_items(_texts(lesson, split), recipe.data.format, seed=recipe.seed) if split == "test" else []
    told = {each.id: _asked(lesson, each, split) for each in contenders}

    def one(each: Contender) -> Answered:
        taught = None if each.id == "teacher" else told["teacher"]
        return Answered(
            quality=_quality(lesson, told[each.id], taught, items, split),
            rows=_rows(told[each.id].test),
            written=written_answers.table(told[each.id].written) if split == "test" else None,
        )

    return {each.id: one(each) for each in contenders}


def _rows(scores: TokenScores) -> pa.Table:
    """Means over each row's targets, as `Answered` keeps them."""
    rows, row_of = np.unique(scores.row, return_inverse=True)
    tokens = np.bincount(row_of)

    def mean(values: NDArray[Any] | None) -> pa.Array:
        if values is None:
            return pa.nulls(len(rows), pa.float64())
        return pa.array(np.bincount(row_of, weights=values.astype(np.float64)) / tokens)

    return pa.table(
        {
            "row": rows,
            "tokens": tokens,
            "nll": mean(scores.nll),
            "same_top": mean(scores.same_top),
            "kl": mean(scores.kl),
        }
    )


def _quality(lesson: Lesson, told: Asked, taught: Asked | None, items: Sequence[choices.Item], split: str) -> Quality:
    recipe = lesson.recipe
    settings: dict[str, Any] = {"confidence": recipe.kpi.quality.confidence, "seed": recipe.seed}
    figures = text_quality(told, taught, items, **settings)
    if taught is None:
        rows = len(np.unique(told.test.row))
        return Quality(
            score=Figure(value=1.0, unit="share", n=rows, basis="computed", how="the teacher agrees with itself"),
            measures=figures,
        )
    score, table = figures["same_top"], lesson.sequence_splits.table(split)
    return Quality(
        score=score,
        drop=_complement(score),
        kl=figures["kl_mean"],
        measures={name: figure for name, figure in figures.items() if name != "same_top"},
        slices=text_slices(
            told.test,
            {column: table[column].to_pylist() for column in recipe.data.slices},
            margin=recipe.margin,
            **settings,
        ),
    )


def _complement(share: Figure) -> Figure:
    """1 minus a share: how far it lies below the teacher's, which is 1."""
    assert share.value is not None
    low, high = (None if end is None else 1 - end for end in (share.high, share.low))
    how = f"tokens at which teacher and model find another one likeliest; {share.how}"
    return share.model_copy(update={"value": 1 - share.value, "low": low, "high": high, "how": how})


def _asked(lesson: Lesson, each: Contender, split: str) -> Asked:
    if each.id == "teacher":
        return _taught(lesson, split, each)
    folder, build = each.finalist.folder.path, _build(lesson, each)

    def build_all() -> Asked:
        model, data = measure_text.weights_of(folder, build), lesson.recipe.data

        def scored(name: str, states: TeacherStates | None) -> TokenScores:
            sequences = measure_text.leading(lesson, name)
            return text_scores.scores(
                model, sequences, max_length=data.max_length, teacher=states, packing=data.packing
            )

        return Asked(
            test=scored(split, _teacher_states(lesson, split)),
            forget=scored("forget", None) if _asks_all(lesson, split) else None,
            **_spoken(lesson, model, folder / MODEL_FOLDER, each, split),
        )

    return _kept(lesson, f"{each.finalist.folder.key}/{build}", split, build_all)


def _taught(lesson: Lesson, split: str, each: Contender | None = None) -> Asked:
    """The teacher's own answers; what it writes is written by the build that `each` serves."""

    def build_all() -> Asked:
        states = _teacher_states(lesson, split)
        forget = None
        if _asks_all(lesson, split):
            other = measure_text.leading(lesson, "forget")
            forget = text_scores.teacher_scores(_teacher_states(lesson, "forget"), other)
        spoken = {} if each is None else _spoken(lesson, _teacher(lesson.teacher), lesson.teacher, each, split)
        return Asked(
            test=text_scores.teacher_scores(states, measure_text.leading(lesson, split)), forget=forget, **spoken
        )

    written_by = None if each is None or split != "test" else each.finalist.folder.key
    return _kept(lesson, f"teacher/{written_by}" if written_by else "teacher", split, build_all)


def _spoken(lesson: Lesson, model: Any, folder: Path, each: Contender, split: str) -> dict[str, Any]:
    """Choices among answers, and answers of its own through the engine that serves it."""
    if split != "test":
        return {}
    recipe, texts = lesson.recipe, _texts(lesson, split)
    items = choices.make_items(texts, recipe.data.format, seed=recipe.seed)
    asked = written_answers.prompts_of(texts, recipe.data.format)
    target = recipe.targets[0]
    return {
        "chosen": choices.choose(model, folder, items, max_length=recipe.data.max_length) if items else None,
        "written": written_answers.write(
            each.finalist.folder.path,
            _build(lesson, each),
            asked,
            threads=local_threads(target),
            slots=target.slots,
            context_length=each.finalist.serving.max_length,
        ),
    }


def _build(lesson: Lesson, each: Contender) -> str:
    return each.finalist.serving.targets[lesson.recipe.targets[0].name].builds[ANY_SHAPE]


def _texts(lesson: Lesson, split: str) -> list[str]:
    texts: list[str] = lesson.sequence_splits.table(split)["text"].to_pylist()
    return texts


def _asks_all(lesson: Lesson, split: str) -> bool:
    return split == "test" and lesson.sequence_splits.table("forget").num_rows > 0


@lru_cache(maxsize=1)
def _teacher(folder: Path) -> Any:
    from deshi.jobs.stages.prune_lm import load_language_model

    return measure_text.placed(load_language_model(folder))


def taught_nll(lesson: Lesson, split: str) -> float:
    """The teacher's mean negative log-likelihood of the split's learned tokens, nats."""
    return float(_taught(lesson, split).test.nll.mean(dtype=np.float64))


_STATES: dict[tuple[str, str, str], TeacherStates] = {}


def _teacher_states(lesson: Lesson, split: str) -> TeacherStates:
    """Computed once a process: every model of a comparison is held against them."""
    key = (lesson.teacher_key, lesson.splits_key, split)
    if key not in _STATES:
        _STATES[key] = text_scores.teacher_states(
            _teacher(lesson.teacher),
            measure_text.leading(lesson, split),
            max_length=lesson.recipe.data.max_length,
            packing=lesson.recipe.data.packing,
        )
    return _STATES[key]


def _kept(lesson: Lesson, who: str, split: str, ask: Callable[[], Asked]) -> Asked:
    resources = lesson.recipe.resources
    inputs = {
        "who": who,
        "teacher": lesson.teacher_key,
        "splits": lesson.splits_key,
        "split": split,
        "tokens": [resources.validation_tokens, resources.test_tokens],
        "max_length": lesson.recipe.data.max_length,
        "seed": lesson.recipe.seed,
    }

    def build(out: Path) -> None:
        told: Asked = ask()
        for name in ("test", "forget"):
            scores = getattr(told, name)
            if scores is not None:
                np.savez(
                    out / f"{name}.npz", **{key: value for key, value in vars(scores).items() if value is not None}
                )
        chosen = None if told.chosen is None else told.chosen.tolist()
        spoken = {"chosen": chosen, "written": [asdict(answer) for answer in told.written]}
        (out / "spoken.json").write_text(json.dumps(spoken, ensure_ascii=False), encoding="utf-8")

    folder = lesson.storage.stage("asked", inputs, build).path
    scores = {
        name: TokenScores(**np.load(folder / f"{name}.npz")) if (folder / f"{name}.npz").is_file() else None
        for name in ("test", "forget")
    }
    spoken = json.loads((folder / "spoken.json").read_text(encoding="utf-8"))
    assert scores["test"] is not None
    return Asked(
        test=scores["test"],
        forget=scores["forget"],
        chosen=None if spoken["chosen"] is None else np.array(spoken["chosen"], np.int64),
        written=tuple(WrittenAnswer(**{**answer, "tokens": tuple(answer["tokens"])}) for answer in spoken["written"]),
    )


def facts(lesson: Lesson) -> DataFacts:
    """What the rows were; the share of rows cut at max_length, and how many rows were scored."""
    most, splits, notes = lesson.recipe.data.max_length, lesson.sequence_splits, []
    cut = {split: splits.cut_share(split, lesson.teacher, max_length=most) for split in ("train", "validation", "test")}
    for split in ("validation", "test", "forget"):
        rows, scored = splits.table(split).num_rows, measure_text.leading(lesson, split)
        if len(scored.lengths) < rows:
            notes.append(
                f"{len(scored.lengths)} of {rows} {split} rows were scored, {int(scored.learned.sum())} tokens; a "
                "random sample."
            )
    if lesson.rows is not None:
        notes.append(f"Students learned from {lesson.rows} of {splits.train.num_rows} train rows, a random sample.")
    found = splits.facts(truncated=cut)
    return found.model_copy(update={"notes": (*found.notes, *notes)})

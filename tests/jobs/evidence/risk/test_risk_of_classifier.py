"""All of the risk from a served model and its teacher: a tiny BERT, rounded, on rows that are few but real."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from deshi.jobs.contender import Contender
from deshi.jobs.data.split import split_rows
from deshi.jobs.evidence import quality
from deshi.jobs.evidence.risk.risk import Compared, of_classifier
from deshi.jobs.evidence.schema import Removed
from deshi.jobs.finalist import Finalist
from deshi.jobs.preflight import refuse_unpriced
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages import builds
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output, Storage
from deshi.serve.serving import SHAPE_CLASSES, ServedTarget, Serving
from tests.jobs.evidence.evidence_fixture import build_evidence

PRICES = {"PERSON": {"PLACE": 5, "TIME": 1}, "PLACE": {"PERSON": 2, "TIME": 1}, "TIME": {"PERSON": 1, "PLACE": 1}}


@pytest.fixture
def lesson(tiny_model, tiny_rows, tmp_path) -> Lesson:
    recipe = Recipe(
        name="tiny",
        seed=1,  # 0 is the seed of the tiny model itself
        storage=str(tmp_path),
        data={"train": "train.csv", "test": "test.csv", "max_length": 32},
        teacher={"model": "teacher"},
        targets=[{"name": "onprem", "threads": 1, "price_per_hour": 1}],
        business={"error_cost": PRICES},
        kpi={},
    )
    storage = Storage(str(tmp_path))
    rows = split_rows(tiny_rows(60, seed=1, unlabelled=120), tiny_rows(40, seed=2), seed=0)
    splits = storage.stage("splits", {}, rows.write)
    teacher = storage.stage("teacher", {}, lambda out: tiny_model(out / "model", labels=3, layers=2))
    return Lesson(recipe=recipe, storage=storage, splits_key=splits.key, precision="fp32", teacher_key=teacher.key)


def served(lesson: Lesson, id: str, scheme: str, temperature: float) -> Contender:
    """The teacher's own weights as a contender, in one build."""
    build, model = f"onnxruntime-{scheme}", Output(key=lesson.teacher_key, storage=lesson.storage)

    def lay_out(out) -> None:
        made = builds.export(lesson, model, [build]).path
        for part in ("model", "engines"):
            (out / part).symlink_to(made / part)
        targets = {"onprem": ServedTarget(threads=1, builds=dict.fromkeys(SHAPE_CLASSES, build))}
        labels = lesson.splits.labels
        Serving(name=id, labels=labels, max_length=32, temperature=temperature, targets=targets).write(out)

    folder = lesson.storage.stage("finalist", {"id": id}, lay_out)
    candidate = Candidate(order="quantize-only", layers=2, scheme=scheme)
    return Contender(
        id=id, candidate=candidate, finalist=Finalist(id=id, model=model, folder=folder, latency={}), felt={}
    )


def test_a_rounded_copy_of_the_teacher(lesson):
    winner, teacher = served(lesson, "chosen", "w8a8", 0.2), served(lesson, "teacher", "fp32", 1.0)
    told = quality.answered(lesson, [winner, teacher], "test")
    given = build_evidence()
    rows = [given.model_row(name).model_copy(update={"quality": told[name].quality}) for name in ("chosen", "teacher")]
    found = of_classifier(
        lesson,
        SimpleNamespace(),
        Compared(
            winner=winner,
            teacher=teacher,
            told=told,
            rows=rows,
            facts=quality.facts(lesson),
            removed=Removed(bits="8-bit weights and activations"),
        ),
    )
    n = lesson.splits.test.num_rows
    assert found.explanations.agreement.value == pytest.approx(1)  # its weights are the teacher's
    assert found.explanations.floor.value < 0.9 and found.explanations.ceiling is None
    answers = {name: each.rows["answer"].to_pylist() for name, each in told.items()}
    differing = sum(one != other for one, other in zip(answers["chosen"], answers["teacher"], strict=True))
    shares = (found.rare_divergence, found.common_divergence)
    assert round(sum(share.value * share.n for share in shares)) == differing
    assert found.changed.to_wrong + found.changed.to_right + found.changed.between_wrong == differing
    # Random logits are nearly equal; a temperature of 0.2 makes them look surer than the teacher's are at 1.
    assert found.calibration_before.value != pytest.approx(found.calibration_after.value, abs=1e-3)
    labels = lesson.splits.test["label"].to_pylist()
    cost = sum(PRICES[a][b] for a, b in zip(labels, answers["chosen"], strict=True) if a != b)
    assert found.error_cost_per_1000.value == pytest.approx(1000 * cost / n)
    codes = {row.code for row in found.ledger}
    assert {"confident_wrong", "calibration", "error_cost", "quantization", "explanations", "removed"} <= codes
    assert "unknown_words" not in codes and "no_slices" in codes


def test_prices_that_do_not_fit_the_rows_are_refused(lesson):
    rows = Output(key=lesson.splits_key, storage=lesson.storage)
    refuse_unpriced(lesson.recipe, rows)
    short = lesson.recipe.business.model_copy(update={"error_cost": {"PERSON": PRICES["PERSON"]}})
    with pytest.raises(ValueError, match="no row for the label 'PLACE'"):
        refuse_unpriced(lesson.recipe.model_copy(update={"business": short}), rows)

"""A candidate's chain on a real lesson, without training: which stages there are, and what each leaves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from deshi.jobs.data.model_folder import describe
from deshi.jobs.data.split import split_rows
from deshi.jobs.recipe import Recipe
from deshi.jobs.session import Machine
from deshi.jobs.stages import answers, chain, cut_classifier, importance, prune
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Storage

MACHINE = Machine(cpus=1, gpus=0, nodes=1, local=True)


@pytest.fixture(scope="module")
def lesson(tmp_path_factory, tiny_rows, tiny_model) -> Lesson:
    """A tiny teacher of 4 layers that has answered every row, as the stages before leave it."""
    folder = tmp_path_factory.mktemp("chain")
    storage = Storage(str(folder / "runs"))
    rows = split_rows(tiny_rows(240, seed=1, unlabelled=200), tiny_rows(60, seed=2), seed=0)
    splits = storage.stage("splits", {}, rows.write)
    teacher = storage.stage("teacher", {}, lambda out: tiny_model(out / "model", labels=3))
    asked = answers.Teacher(storage, teacher.key, splits.key, "work", 32, 32)
    for split in answers.ASKED:
        (Path(storage.root) / "work").mkdir(exist_ok=True)
        asked({"split": np.array([split]), "begin": np.array([0])})
    told = storage.stage(
        "answers",
        {},
        lambda out: [part.rename(out / part.name) for part in (Path(storage.root) / "work").iterdir()],  # type: ignore
    )
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "data": {"train": "a.csv", "test": "b.csv", "max_length": 32},
            "teacher": {"model": "t"},
            "targets": [{"name": "edge", "threads": 1, "price_per_hour": 1}],
            "kpi": {"quality": {"max_drop": 0.1}},
        }
    )
    bare = Lesson(recipe=recipe, storage=storage, splits_key=splits.key, precision="fp32")
    return bare.taught_by(teacher).answered(told)


def stages(candidate: Candidate, lesson: Lesson) -> list[str]:
    return [name for name, _ in chain.steps_of(candidate, lesson, MACHINE)]


def test_the_whole_teacher_is_only_quantized(lesson):
    whole = Candidate(order="quantize-only", layers=4)
    assert stages(whole, lesson) == ["parent", "quantize"]
    assert chain.make(whole, lesson, MACHINE).key == lesson.teacher_key
    assert chain.kept_layers(whole, lesson) == (0, 1, 2, 3)


def test_a_student_of_some_layers_gets_a_head_of_its_own(lesson):
    """Even where the width stays: layers are gone, so the head is fitted again, as ridge regression would."""
    half = Candidate(layers=2)
    made = dict(chain.steps_of(half, lesson, MACHINE))
    assert list(made) == ["parent", "depth", "prune", "quantize"]
    assert chain.kept_layers(half, lesson) == (0, 3)
    cut, refitted = (prune.load_classifier(made[name].path / "model") for name in ("depth", "prune"))
    texts, logits = cut_classifier.refit_rows(lesson, told="answers")
    from transformers import AutoTokenizer

    batches = importance.calibration_batches(
        AutoTokenizer.from_pretrained(made["depth"].path / "model"), texts, max_length=32
    )
    expected = prune.refit_head(cut, batches, logits, 0.01)
    np.testing.assert_allclose(
        refitted.classifier.weight.detach().numpy(), expected.classifier.weight.detach().numpy(), atol=1e-5
    )
    assert not np.allclose(refitted.classifier.weight.detach(), cut.classifier.weight.detach())


def test_a_cut_vocabulary_alone_changes_no_answer(lesson):
    same = Candidate(layers=4, vocabulary="seen")
    made = dict(chain.steps_of(same, lesson, MACHINE))
    before, after = (describe(made[name].path / "model") for name in ("parent", "prune"))
    assert after.vocabulary <= before.vocabulary and after.layers == before.layers
    heads = [prune.load_classifier(made[name].path / "model").classifier.weight for name in ("parent", "prune")]
    assert bool((heads[0] == heads[1]).all())


def test_narrower_and_shallower_is_smaller(lesson):
    small = chain.make(Candidate(layers=1, ffn=0.5, vocabulary="seen"), lesson, MACHINE)
    facts = describe(small.path / "model")
    assert facts.layers == 1 and facts.ffn == describe(lesson.teacher).ffn // 2

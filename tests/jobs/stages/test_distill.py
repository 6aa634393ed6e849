"""What a recipe's training comes to, task by task, as the job that the workers are given."""

from __future__ import annotations

from pathlib import Path

import pytest

from deshi.jobs.recipe import Recipe
from deshi.jobs.session import Machine
from deshi.jobs.stages import distill, train
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output, Storage

MACHINE = Machine(cpus=2, gpus=0, nodes=1, local=True)
QUALITY = {"classify": {"max_drop": 0.02}, "generate": {"kl_mean": 0.5}}


@pytest.fixture
def fitted(tmp_path, monkeypatch):
    """`fitted(task, told=, rows=, splits_key=, distill=, data=)`: the job of `distill.fit`, which is not run."""
    jobs = []

    def run(job: train.TrainJob, out: Path, **_: object) -> None:
        jobs.append(job)
        (out / "model").mkdir()

    monkeypatch.setattr(train, "run", run)

    def fit(task, *, told="answers", rows=None, splits_key=None, **parts):
        recipe = Recipe.model_validate(
            {
                "name": "r",
                "task": task,
                "data": {"train": "a", "test": "b"} | parts.get("data", {}),
                "teacher": {"model": "m", "finetune": False},
                "distill": {"deepspeed": {"zero_stage": 3}} | parts.get("distill", {}),
                "targets": [{"name": "here", "threads": 2, "price_per_hour": 15}],
                "kpi": {"quality": QUALITY[task]},
            }
        )
        storage = Storage(str(tmp_path))
        lesson = Lesson(
            recipe=recipe, storage=storage, splits_key="splits-1", precision="fp32", teacher_key="teacher-1"
        ).answered(Output(key="answers-1", storage=storage), rows=rows)
        student = Output(key="student-1", storage=storage)
        distill.fit(
            "distil",
            lesson,
            student,
            MACHINE,
            told=told,
            steps=20,
            batch_size=8,
            learning_rate=1e-3,
            splits_key=splits_key,
        )
        return jobs.pop()

    return fit


def test_a_language_model_learns_from_the_answered_rows_of_train(fitted):
    job = fitted("generate", rows=70, distill={"ce_weight": 0.25, "temperature": 1.0})
    assert (job.task, job.learn_from, job.rows, job.packing) == ("generate", ("train",), 70, True)
    assert (job.answers, job.teacher) == ("answers-1", None)
    assert (job.distil_weight, job.label_weight, job.hidden_weight) == (1.0, 0.25, 0.0)
    assert job.micro_batch == 4
    assert not fitted("generate", data={"packing": False}).packing


def test_its_control_reads_the_same_rows_and_no_teacher(fitted):
    job = fitted("generate", told="labels", rows=70, distill={"ce_weight": 0.25, "online_teacher": True})
    assert (job.rows, job.answers, job.teacher) == (70, None, None)
    assert (job.distil_weight, job.label_weight) == (0.0, 1.0)


def test_an_online_teacher_stands_in_for_the_cache(fitted):
    job = fitted("generate", distill={"online_teacher": True})
    assert (job.answers, job.teacher, job.rows) == (None, "teacher-1", None)


def test_rows_of_its_own_are_all_learned_from(fitted):
    job = fitted("generate", told="labels", rows=70, splits_key="other-1")
    assert (job.splits, job.rows) == ("other-1", None)


def test_a_classifier_learns_from_unlabelled_rows_too(fitted):
    job = fitted("classify", distill={"label_weight": 0.5})
    assert (job.task, job.learn_from, job.rows, job.packing) == ("classify", ("train", "unlabelled"), None, False)
    assert (job.answers, job.label_weight) == ("answers-1", 0.5)
    assert fitted("classify", told="labels").learn_from == ("train",)


def test_a_batch_that_workers_cannot_share_is_refused(fitted):
    with pytest.raises(ValueError, match="batch_size 8 does not share evenly over 3 workers"):
        fitted("generate", distill={"workers": 3})

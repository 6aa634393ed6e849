"""A language model in the same loop, with real workers: scattered or whole, told by a cache or by an online teacher."""

from __future__ import annotations

import json
import os
import runpy
import signal
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from deshi.jobs.data.sequences import make_sequence_splits
from deshi.jobs.recipe import DeepSpeed
from deshi.jobs.stages.deepspeed_config import deepspeed_config
from deshi.jobs.stages.language_apprentice import LanguageApprentice
from deshi.jobs.stages.sequence_answers import SHARD_ROWS
from deshi.jobs.stages.sequence_batches import SequenceBatches
from deshi.jobs.stages.sequence_teacher import Teacher
from deshi.jobs.stages.train import TrainJob, _cause, _last_good
from deshi.jobs.storage import Storage

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))
loop = runpy.run_path(str(Path(__file__).with_name("test_train.py")))
STEPS, MAX_LENGTH, BATCH = 24, 96, 8


@pytest.fixture(scope="module")
def lesson(tmp_path_factory):
    """A storage with splits, a teacher, its answers and a student of fewer layers."""
    root = tmp_path_factory.mktemp("storage")
    storage = Storage(str(root))
    for name, count, seed in (("train", 200, 1), ("test", 10, 2)):
        lines = [json.dumps({"messages": chat}) for chat in lm["conversations"](count, seed=seed)]
        (root / f"{name}.jsonl").write_text("\n".join(lines))
    made = make_sequence_splits(
        train=root / "train.jsonl", test=root / "test.jsonl", format="messages", loss_on="assistant", seed=0
    )
    splits = storage.stage("splits", {}, made.write)
    teacher = storage.stage("teacher", {}, lambda out: lm["tiny_lm"](out / "model", layers=3, seed=5) and None)
    student = storage.stage("student", {}, lambda out: lm["tiny_lm"](out / "model") and None)
    rows = 150
    asked = {
        "rows": {"train": rows},
        "max_length": MAX_LENGTH,
        "top_k": 16,
        "vocabulary": None,
        "precision": "fp32",
        "packing": True,
        "batch_rows": 4,
    }

    def answer(out):
        begins = np.arange(0, rows, SHARD_ROWS)
        one = Teacher(storage, teacher.key, splits.key, ".work/answers", asked)
        one({"split": np.array(["train"] * len(begins)), "begin": begins})
        for path in (root / ".work" / "answers").iterdir():
            path.rename(out / path.name)

    answers = storage.stage("answers", {}, answer)
    return SimpleNamespace(
        root=root,
        storage=storage,
        rows=rows,
        keys={"splits": splits.key, "student": student.key, "teacher": teacher.key, "answers": answers.key},
    )


def job(lesson, work, *, online=False, zero_stage=1, accumulation=1, learning_rate=3e-3, **change):
    micro_batch = BATCH // 2 // accumulation
    told = {
        "task": "generate",
        "storage": str(lesson.root),
        "work": f".work/{work}",
        "student": lesson.keys["student"],
        "splits": lesson.keys["splits"],
        "learn_from": ("train",),
        "rows": lesson.rows,
        "packing": True,
        "answers": None if online else lesson.keys["answers"],
        "teacher": lesson.keys["teacher"] if online else None,
        "max_length": MAX_LENGTH,
        "loss": "forward_kl",
        "alpha": 0.5,
        "temperature": 1.0,
        "distil_weight": 1.0,
        "label_weight": 0.5,
        "hidden_weight": 0.0,
        "steps": STEPS,
        "micro_batch": micro_batch,
        "accumulation": accumulation,
        "gradient_checkpointing": False,
        "precision": "fp32",
        "seed": 0,
        "use_gpu": False,
        "threads": 1,
        "checkpoint_every": STEPS // 3,
        "deepspeed": deepspeed_config(
            DeepSpeed(zero_stage=zero_stage),
            micro_batch=micro_batch,
            accumulation=accumulation,
            steps=STEPS,
            warmup_steps=2,
            learning_rate=learning_rate,
            weight_decay=0.01,
            precision="fp32",
        ),
    }
    return TrainJob.model_validate(told | change)


def first_loss(lesson, told):
    """The loss of step 0 over the whole batch at once, without DeepSpeed, workers or accumulation."""
    storage = lesson.storage
    whole = told.model_copy(update={"micro_batch": BATCH, "accumulation": 1})
    batches = SequenceBatches.load(whole, storage, rank=0, world=1)
    apprentice = LanguageApprentice.to_train(whole, storage, batches)
    batch = batches.at(0, 0, rank=0, world=1, device="cpu")
    return float(apprentice.loss(apprentice, LanguageApprentice.to_ask(whole, storage), batch, whole).detach())


def run(lesson, told, out):
    loop["finish"](loop["start"](lesson.root, told, out))
    return lesson.root / out


SETTINGS = {"zero1-cached": {"zero_stage": 1}, "zero3-online": {"zero_stage": 3, "online": True, "accumulation": 2}}


@pytest.fixture(scope="module", params=SETTINGS)
def unbroken(request, lesson):
    """(name, its job, its finished folder)."""
    told = job(lesson, request.param, **SETTINGS[request.param])
    return request.param, told, run(lesson, told, f"{request.param}-unbroken")


@pytest.mark.whole
@pytest.mark.timeout(300)
def test_it_learns_what_the_whole_batch_says_and_stock_transformers_loads_the_result(unbroken, lesson):
    _, told, folder = unbroken
    curve = loop["losses"](folder)
    assert len(curve) == STEPS
    assert curve[0] == pytest.approx(first_loss(lesson, told), rel=1e-5)
    assert np.mean(curve[-4:]) < 0.8 * curve[0], curve
    model = AutoModelForCausalLM.from_pretrained(folder / "model", trust_remote_code=False)
    before = AutoModelForCausalLM.from_pretrained(lesson.storage.fetch(told.student) / "model")
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert model.lm_head.weight is model.model.embed_tokens.weight
    moved = (model.lm_head.weight != before.lm_head.weight).any(dim=1)
    assert moved.all(), "every piece of a tied head takes part in the softmax"
    AutoTokenizer.from_pretrained(folder / "model").apply_chat_template([{"role": "user", "content": "what?"}])


@pytest.mark.whole
@pytest.mark.timeout(400)
def test_a_killed_run_goes_on_with_the_same_losses_and_weights(unbroken, lesson):
    name, told, whole = unbroken
    told = told.model_copy(update={"work": f".work/{name}-killed"})
    work = lesson.root / told.work
    process = loop["start"](lesson.root, told, f"{name}-killed-first")
    deadline = time.monotonic() + 120
    while not list(work.glob("step-*/sealed.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert list(work.glob("step-*/sealed.json"))
    assert not (lesson.root / f"{name}-killed-first" / "training.json").exists()
    mended = run(lesson, told, f"{name}-killed")
    assert loop["losses"](mended) == loop["losses"](whole)
    states = [AutoModelForCausalLM.from_pretrained(folder / "model").state_dict() for folder in (whole, mended)]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])


@pytest.mark.whole
@pytest.mark.timeout(300)
def test_a_loss_that_is_no_number_stops_the_run_in_one_sentence(lesson):
    told = job(lesson, "nan", learning_rate=1e12, checkpoint_every=2)  # 1e30 would vanish in the norms
    process = loop["start"](lesson.root, told, "nan")
    _, said = process.communicate(timeout=240)
    assert process.returncode != 0
    assert "ValueError: training test stopped: the loss is nan at step " in said, said[-2000:]
    assert "lower the learning rate, the last good checkpoint is that of step 2 in .work/nan" in said
    assert (lesson.root / ".work" / "nan" / "step-00000002" / "sealed.json").exists()
    assert not (lesson.root / "nan" / "model").exists()


@pytest.mark.parametrize(("step", "good"), [(0, None), (4, None), (5, None), (10, 5), (11, 10), (12, 10)])
def test_the_last_good_checkpoint_is_one_whose_weights_gave_a_number(step, good):
    """The checkpoint made just before a step that fails may hold the weights that made it fail."""
    said = _last_good(SimpleNamespace(checkpoint_every=5, work=".work/x"), step)
    assert said == (
        f"the last good checkpoint is that of step {good} in .work/x" if good else "no checkpoint was made before it"
    )


def test_a_worker_without_memory_is_told_from_one_that_failed():
    died = RuntimeError("1 worker(s) were killed due to the node running low on memory. " + "Read about Ray. " * 90)
    failed = SimpleNamespace(worker_failures={0: died})
    assert _cause(failed).startswith("a worker was ended because its machine ran out of memory; raise")
    failed.worker_failures[0] = RuntimeError("the rows  are\ntoo few")
    assert _cause(failed) == "the rows are too few"

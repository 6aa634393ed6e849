"""The training loop with real workers: it learns, goes on after a kill bit for bit, and its models are stock ones."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, BertConfig

from deshi.jobs.stages.train import TrainJob

pytestmark = pytest.mark.whole

STEPS = 60  # what random weights need to learn the rule; after 12 they still guess

DRIVER = """
import sys, json
from pathlib import Path
from deshi.jobs import session
from deshi.jobs.stages import train
job = train.TrainJob.model_validate_json(Path(sys.argv[1]).read_text())
out = Path(sys.argv[2]); out.mkdir()
session.connect()
train.run(job, out, workers=2, resources={"CPU": 1}, max_failures=0, name="test")
"""


@pytest.fixture(scope="module")
def lesson(tmp_path_factory, tiny_rows, tiny_model) -> Path:
    """A storage with splits and a student, laid out as the stages do."""
    from deshi.jobs.data.split import split_rows
    from deshi.jobs.storage import Storage

    root = tmp_path_factory.mktemp("storage")
    storage = Storage(str(root))
    train, test = tiny_rows(240, seed=1), tiny_rows(60, seed=2)
    splits = storage.stage("splits", {}, lambda out: split_rows(train, test, seed=0).write(out))
    student = storage.stage("pretrained", {}, lambda out: tiny_model(out / "model", labels=3))
    (root / "keys.json").write_text(json.dumps({"splits": splits.key, "student": student.key}))
    return root


def job(root: Path, work: str, **change) -> TrainJob:
    from deshi.jobs.recipe import DeepSpeed
    from deshi.jobs.stages.deepspeed_config import deepspeed_config

    keys = json.loads((root / "keys.json").read_text())
    zero = change.pop("zero_stage", 1)
    accumulation = change.get("accumulation", 1)
    told = {
        "task": "classify",
        "storage": str(root),
        "work": f".work/{work}",
        "student": keys["student"],
        "splits": keys["splits"],
        "learn_from": ("train",),
        "rows": None,
        "packing": False,
        "answers": None,
        "teacher": None,
        "max_length": 32,
        "loss": "forward_kl",
        "alpha": 0.5,
        "temperature": 2.0,
        "distil_weight": 0.0,
        "label_weight": 1.0,
        "hidden_weight": 0.0,
        "steps": STEPS,
        "micro_batch": 8 // accumulation,
        "accumulation": 1,
        "gradient_checkpointing": False,
        "precision": "fp32",
        "seed": 0,
        "use_gpu": False,
        "threads": 1,
        "checkpoint_every": STEPS // 3,
        "deepspeed": deepspeed_config(
            DeepSpeed(zero_stage=zero),
            micro_batch=8 // accumulation,
            accumulation=accumulation,
            steps=STEPS,
            warmup_steps=2,
            learning_rate=5e-3,
            weight_decay=0.01,
            precision="fp32",
        ),
    }
    return TrainJob.model_validate(told | change)


def start(root: Path, told: TrainJob, out: str) -> subprocess.Popen:
    path = root / f"{out}.json"
    path.write_text(told.model_dump_json())
    env = os.environ | {"DESHI_HOME": str(root / "home"), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-c", DRIVER, str(path), str(root / out)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True, start_new_session=True)


def finish(process: subprocess.Popen) -> None:
    _, said = process.communicate(timeout=240)
    assert process.returncode == 0, said[-3000:]


def losses(folder: Path) -> list[float]:
    return json.loads((folder / "training.json").read_text())["losses"]


@pytest.fixture(scope="module")
def unbroken(lesson) -> Path:
    finish(start(lesson, job(lesson, "unbroken"), "unbroken"))
    return lesson / "unbroken"


@pytest.mark.timeout(300)
def test_it_learns_and_stock_transformers_loads_the_result(unbroken, lesson):
    curve = losses(unbroken)
    assert len(curve) == STEPS
    assert curve[-1] < 0.8 * curve[0], curve
    model = AutoModelForSequenceClassification.from_pretrained(unbroken / "model", trust_remote_code=False)
    assert isinstance(model.config, BertConfig)
    assert all(torch.isfinite(weight).all() for weight in model.parameters())
    assert not (lesson / ".work" / "unbroken").exists(), "checkpoints are removed when the run is done"


@pytest.mark.timeout(400)
def test_a_killed_run_goes_on_with_the_same_losses_and_weights(unbroken, lesson):
    """SIGKILL of the whole process group after a checkpoint is complete; the same call then finishes the run."""
    told = job(lesson, "killed")
    process = start(lesson, told, "killed-first")
    deadline = time.monotonic() + 120
    while not list((lesson / ".work" / "killed").glob("step-*/sealed.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {path.parent.name for path in (lesson / ".work" / "killed").glob("step-*/sealed.json")}
    assert done and not (lesson / "killed-first" / "training.json").exists()
    (lesson / ".work" / "killed" / "step-00000099").mkdir()  # a torn checkpoint is passed over
    finish(start(lesson, told, "killed"))
    assert losses(lesson / "killed") == losses(unbroken)
    whole, mended = (
        AutoModelForSequenceClassification.from_pretrained(folder / "model").state_dict()
        for folder in (unbroken, lesson / "killed")
    )
    assert all(torch.equal(whole[name], mended[name]) for name in whole)


@pytest.mark.timeout(300)
def test_zero_3_and_accumulation_train_the_same_model_nearly(unbroken, lesson):
    """Other partitions and smaller parts of the same batch add up in another order, and to the same thing."""
    finish(start(lesson, job(lesson, "zero3", zero_stage=3, accumulation=2), "zero3"))
    assert losses(lesson / "zero3")[:1] == pytest.approx(losses(unbroken)[:1], rel=0.2)
    AutoModelForSequenceClassification.from_pretrained(lesson / "zero3" / "model")
    assert losses(lesson / "zero3")[-1] < 0.8 * losses(lesson / "zero3")[0]


def test_the_rows_are_those_of_one_epoch():
    from deshi.jobs.data.tokens import batch_rows

    seen = [row for step in range(3) for row in batch_rows(step, rows=24, batch_size=8, seed=0)]
    assert sorted(seen) == list(range(24))
    assert isinstance(pa.array(seen), pa.Array)

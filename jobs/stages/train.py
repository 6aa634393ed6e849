"""The training loop: one for teacher, student, recovery and controls, on one CPU or on many GPUs.

In: a model folder, the rows of some splits, the teacher's answers (cached, or asked online). Out: a model folder and
its loss curve. Ray Train V2 starts the workers and mends their failures, DeepSpeed holds model, optimizer and ZeRO
partitions; the loop between them is plain.

Nothing random has a state: the rows of a step, its dropout and its learning rate are functions of (seed, step, rank).
A killed run therefore goes on from its last checkpoint with the losses it would have had, bit for bit, at the same
number of workers and threads.
"""

from __future__ import annotations

import json
import os
import time
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deshi.jobs.storage import Storage


class TrainJob(BaseModel):
    """All that a worker must know; crosses Ray as plain JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: Literal["classify", "generate"]
    storage: str
    work: str  # path under the storage for checkpoints and the result
    student: str  # key of an output with a model/ folder
    splits: str
    learn_from: tuple[str, ...]  # names of splits
    rows: int | None  # generate: how many leading rows of the split, None: all
    packing: bool  # generate: several sequences in a row of max_length
    answers: str | None  # key of the cached teacher answers
    teacher: str | None  # key of an output with a model/ folder; asked online if given
    max_length: int
    loss: str
    alpha: float
    temperature: float
    distil_weight: float
    label_weight: float  # of cross-entropy on the labels, or on the text itself
    hidden_weight: float
    steps: int
    micro_batch: int
    accumulation: int
    gradient_checkpointing: bool
    precision: str
    seed: int
    use_gpu: bool
    threads: int
    checkpoint_every: int
    deepspeed: dict[str, Any]


def train_step(engine: Any, teacher: Any, batch: dict[str, Any], job: TrainJob) -> Any:
    """One micro-step: the apprentice's own loss, backward, update. Returns the detached loss."""
    loss = engine.module.loss(engine, teacher, batch, job)
    engine.backward(loss)
    engine.step()
    return loss.detach()


def train_worker(config: dict[str, Any], *, seal: bytes = b"") -> dict[str, Any] | None:
    """The function that Ray Train runs in each worker; rank 0 returns the loss curve and the seconds in steps.

    `seal` authenticates checkpoints. It is no part of the job, which is shown on dashboards.
    """
    job = TrainJob.model_validate(config)
    # Set here, before the imports that read them: a runtime_env would cost each run a fresh set of processes.
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if not job.use_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"

    import deepspeed
    import ray.train
    import torch
    import torch.distributed as dist

    from deshi.jobs import checkpoint
    from deshi.jobs.stages.apprentice import Apprentice, save_student
    from deshi.jobs.stages.batches import Batches
    from deshi.jobs.stages.language_apprentice import LanguageApprentice
    from deshi.jobs.stages.sequence_batches import SequenceBatches

    if not job.use_gpu:
        # DeepSpeed would compile its shared-memory all-reduce, a minute at first use, which only inference calls.
        deepspeed.ops.__compatible_ops__ = {}
    rank, world = ray.train.get_context().get_world_rank(), ray.train.get_context().get_world_size()
    torch.set_num_threads(job.threads)
    device = ray.train.torch.get_device()
    storage = Storage(job.storage)
    deepspeed.init_distributed(dist_backend="nccl" if job.use_gpu else "gloo")

    of_task: dict[str, Any] = {"classify": (Apprentice, Batches), "generate": (LanguageApprentice, SequenceBatches)}
    kind, rows = of_task[job.task]
    batches = rows.load(job, storage, rank=rank, world=world)
    torch.manual_seed(job.seed)
    apprentice = kind.to_train(job, storage, batches)
    teacher = kind.to_ask(job, storage)
    if teacher is not None:
        teacher.to(device).eval()
    engine, _, _, _ = deepspeed.initialize(
        model=apprentice, model_parameters=list(apprentice.parameters()), config=job.deepspeed
    )
    losses = checkpoint.resume(engine, storage, job.work, key=seal)
    in_steps = 0.0
    for step in range(len(losses), job.steps):
        began = time.perf_counter()
        torch.manual_seed((job.seed * 1_000_003 + step) * 131 + rank)
        engine.train()
        total = torch.zeros((), device=device)
        for part in range(job.accumulation):
            batch = batches.at(step, part, rank=rank, world=world, device=device)
            total += train_step(engine, teacher, batch, job) / job.accumulation
        dist.all_reduce(total)
        losses.append(float(total) / world)
        in_steps += time.perf_counter() - began
        if not torch.isfinite(total):
            raise ValueError(
                f"the loss is {losses[-1]} at step {step}; lower the learning rate, {_last_good(job, step)}"
            )
        done = step + 1
        if done % job.checkpoint_every == 0 and done < job.steps:
            checkpoint.publish(engine, storage, job.work, step=done, losses=losses, key=seal)
        if done % 10 == 0 or done == job.steps:
            ray.train.report({"step": done, "steps": job.steps, "loss": losses[-1]})
    save_student(engine, storage, job.work, source=storage.fetch(job.student) / "model")
    return {"losses": losses, "seconds_in_steps": in_steps} if rank == 0 else None


def run(job: TrainJob, out: Path, *, workers: int, resources: dict[str, float], max_failures: int, name: str) -> None:
    """Runs a training job on Ray Train and puts `model/` and `training.json` into `out`.

    Raises:
        ValueError: with the worker's own sentence, if the training cannot go on.
    """
    import pyarrow.fs as pafs
    import ray
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    from deshi.jobs.checkpoint import seal_key

    storage = Storage(job.storage)
    storage.filesystem.create_dir(f"{storage.root}/{job.work}", recursive=True)
    began = time.perf_counter()
    trainer = TorchTrainer(
        partial(train_worker, seal=seal_key()),
        train_loop_config=job.model_dump(mode="json"),
        torch_config=TorchConfig(backend="nccl" if job.use_gpu else "gloo"),
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=job.use_gpu, resources_per_worker=resources),
        run_config=RunConfig(
            name=f"{name}-{time.time_ns()}",  # our checkpoints resume, not Ray's snapshot
            storage_path=f"{storage.root}/{job.work}/ray",
            storage_filesystem=storage.filesystem,
            failure_config=FailureConfig(max_failures=max_failures),
        ),
    )
    try:
        result = trainer.fit()
    except ray.train.TrainingFailedError as error:
        raise ValueError(f"training {name} stopped: {_cause(error)}") from None
    told = result.return_value
    seconds = time.perf_counter() - began
    (out / "model").mkdir()
    pafs.copy_files(f"{storage.root}/{job.work}/model", str(out / "model"), storage.filesystem, pafs.LocalFileSystem())
    facts = {
        "steps": job.steps,
        "losses": told["losses"],
        "seconds": round(seconds, 3),
        "seconds_in_steps": round(told["seconds_in_steps"], 3),
        "workers": workers,
        "precision": job.precision,
        "zero_stage": job.deepspeed["zero_optimization"]["stage"],
    }
    (out / "training.json").write_text(json.dumps(facts), encoding="utf-8")
    storage.filesystem.delete_dir(f"{storage.root}/{job.work}")


def _last_good(job: TrainJob, step: int) -> str:
    """Which checkpoint can be relied on if the loss of `step` is no number: one whose weights gave a finite loss."""
    good = max(0, step - 1) // job.checkpoint_every * job.checkpoint_every
    if not good:
        return "no checkpoint was made before it"
    return f"the last good checkpoint is that of step {good} in {job.work}"


def _cause(error: BaseException) -> str:
    """The innermost sentence of a chain of wrapped errors."""
    failures = getattr(error, "worker_failures", None) or {}
    inner: BaseException = next(iter(failures.values()), error)
    while True:
        deeper = getattr(inner, "cause", None) or inner.__cause__
        if not isinstance(deeper, BaseException) or deeper is inner:
            break
        inner = deeper
    said = " ".join(str(inner).split())
    if "running low on memory" in said:  # Ray's own words, before a page of advice on Ray
        return (
            "a worker was ended because its machine ran out of memory; raise resources.train.gradient_accumulation, "
            "switch on gradient_checkpointing, take a higher zero_stage or fewer workers"
        )
    return said[-600:]

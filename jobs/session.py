"""Where a run's work is done: Ray in this process, or the cluster that `RAY_ADDRESS` or the job names.

Also what is known of the machine before work starts: how many CPUs and GPUs a training worker may take, and whether
every node can read the recipe's files.
"""

from __future__ import annotations

import logging
import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from deshi.jobs.recipe import Recipe

# What Ray Train need not do on one machine: nobody preempts it (a process and 4 s less a run), and asking workers for
# their state costs nothing, so the end of a run is seen at once. What the caller has set stays.
ONE_MACHINE = {"RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0", "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5"}


@dataclass(frozen=True, kw_only=True)
class Machine:
    """What the cluster offers: totals, and the cores of the node that measures."""

    cpus: int
    gpus: int
    nodes: int
    local: bool

    def training_resources(self, workers: int, *, use_gpu: bool, gpus_per_worker: float) -> dict[str, float]:
        """What one training worker asks of Ray: an even share of the CPUs, or its GPUs and one CPU."""
        if use_gpu:
            return {"CPU": 1, "GPU": gpus_per_worker}
        return {"CPU": max(1, self.cpus // workers)}


def in_ray_job() -> bool:
    """Whether this process is the entry point of `ray job submit`."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ or "RAY_JOB_SUBMISSION_ID" in os.environ


def refuse_unreadable(recipe: Recipe) -> None:
    """Inside a Ray job, refuses storage and data that lie in the job's temporary upload.

    Raises:
        ValueError: naming the path and the fix, before any work.
    """
    if not in_ray_job():
        return
    upload = str(Path.cwd())
    places = {"storage": recipe.storage, "data.train": recipe.data.train, "data.test": recipe.data.test}
    for key, place in places.items():
        if "://" in place or not place.startswith((upload, "/tmp/ray")):  # noqa: S108 - Ray's own upload folder
            continue
        raise ValueError(
            f"{key} = {place} lies in this job's temporary upload, which is deleted with the job and left out what "
            f".gitignore names; give a path that all nodes share or a URI such as s3://bucket/deshi"
        )


def settle_accelerator() -> None:
    """transformers asks DeepSpeed, which would look for an accelerator and warn on standard output where there is none.

    For this process and those it starts; a cluster's nodes have an environment of their own.
    """
    import torch

    if not torch.cuda.is_available():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")


def connect() -> Machine:
    """Starts Ray in this process, or joins the cluster that the environment names. Idempotent."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    import ray

    if not ray.is_initialized():
        remote = "RAY_ADDRESS" in os.environ or in_ray_job()
        arguments: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
        if not remote:
            # One logical CPU more than there are: a trial drives a training run and must not take a worker's place.
            cpus = (os.cpu_count() or 1) + 1
            os.environ |= ONE_MACHINE | os.environ
            arguments |= {"num_cpus": cpus, "include_dashboard": True, "dashboard_host": "127.0.0.1"}
        ray.init(**arguments)
        _private_token()
    _quiet()
    resources = ray.cluster_resources()
    nodes = sum(1 for node in ray.nodes() if node["Alive"])
    return Machine(
        cpus=max(1, int(resources.get("CPU", 1)) - 1),  # one is left for the trials' drivers
        gpus=int(resources.get("GPU", 0)),
        nodes=nodes,
        local="RAY_ADDRESS" not in os.environ and not in_ray_job(),
    )


def _quiet() -> None:
    """Leaves the terminal to the run's own lines; Ray's logs stay in its session folder and on its dashboard."""
    import ray.data
    import ray.train
    import ray.tune

    for name in ("ray.data", "ray.tune", "ray.train"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False


def _private_token() -> None:
    """Ray writes its access token readable by everyone under a usual umask; only the user needs it."""
    token = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", Path.home() / ".ray" / "auth_token"))
    if token.is_file():
        token.chmod(0o600)


def choose_precision(asked: str, *, use_gpu: bool, hidden: int = 384) -> str:
    """fp32, bf16 or fp16 for training. On a CPU bf16 may be seven times slower or four times faster: it is measured.

    The probe is one feed-forward of `hidden` x 4 `hidden` on 512 rows, forward and backward; bf16 must win by 1.3x,
    since it also costs accuracy.
    """
    if asked != "auto":
        return asked
    import torch

    if use_gpu:
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "fp16"

    def seconds(dtype: Any) -> float:
        weight = torch.randn(hidden, 4 * hidden, dtype=dtype, requires_grad=True)
        rows = torch.randn(512, hidden, dtype=dtype)
        best = float("inf")
        for _ in range(5):
            began = time.perf_counter()
            (rows @ weight).square().mean().backward()
            best = min(best, time.perf_counter() - began)
        return best

    return "bf16" if seconds(torch.float32) > 1.3 * seconds(torch.bfloat16) else "fp32"


def describe_machine() -> dict[str, Any]:
    """Processor, cores, memory and platform, for the evidence."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 2**30, 1),
        "platform": platform.platform(),
        "python": platform.python_version(),
        "gpu": _gpu(),
    }


def _gpu() -> str | None:
    import torch

    return torch.cuda.get_device_name(0) if torch.cuda.is_available() else None


def commit() -> str:
    """The commit of the checkout this code runs from, marked if it has local changes; "unknown" from a wheel."""
    here = Path(__file__).resolve().parent
    try:
        head = subprocess.run(
            ["git", "-C", str(here), "rev-parse", "HEAD"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(here), "status", "--porcelain"], capture_output=True, text=True, check=True, timeout=10
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if dirty else "")

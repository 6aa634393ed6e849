"""Training checkpoints that a killed run goes on from: complete or absent, authenticated before they are read.

A checkpoint is what DeepSpeed's `engine.save_checkpoint` writes (weights, optimizer partitions, scheduler, step) under
`<work>/step-<n>/`, and a manifest of its files' SHA-256, written last by rank 0 and sealed with HMAC-SHA-256. Nothing
else is state: rows, dropout and learning rate are functions of (seed, step, rank), so no RNG and no iterator is saved.

DeepSpeed's files are pickles. This module is the one place that reads any: only files that this user's runs wrote, as
the seal proves, whose key lies in the user's private folder and never in the storage.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from deshi.jobs.storage import Storage, canonical, file_digest

_SEAL = "sealed.json"


def seal_key() -> bytes:
    """The user's key, made at first use in a file that only the user can read."""
    path = Path(os.environ.get("DESHI_HOME", Path.home() / ".config" / "deshi")) / "checkpoint.key"
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return path.read_bytes()
    with os.fdopen(handle, "wb") as file:
        file.write(secrets.token_bytes(32))
    return path.read_bytes()


def _sealed(files: dict[str, str], step: int, key: bytes) -> str:
    return hmac.new(key, canonical({"files": files, "step": step}), hashlib.sha256).hexdigest()


def publish(
    engine: Any, storage: Storage, work: str, *, step: int, losses: list[float], key: bytes, keep: int = 2
) -> None:
    """Saves the engine's state after `step` steps. A collective call: every rank makes it.

    `work` is a path under the storage's root; `losses` is the curve so far. Checkpoints beyond the newest `keep` are
    removed once this one is complete.
    """
    import torch.distributed as dist

    rank = dist.get_rank()
    target = f"{storage.root}/{work}/step-{step:08d}"
    with tempfile.TemporaryDirectory(prefix="deshi-checkpoint-") as folder:
        engine.save_checkpoint(folder, tag="state", client_state={"losses": losses}, save_latest=False)
        mine = {str(path.relative_to(folder)): file_digest(path) for path in Path(folder).rglob("*") if path.is_file()}
        for name in mine:
            storage.upload(Path(folder) / name, f"{target}/{name}")
        everyones: list[dict[str, str] | None] = [None] * dist.get_world_size()
        dist.all_gather_object(everyones, mine)
    if rank == 0:
        files = {name: digest for part in everyones if part for name, digest in part.items()}
        seal = {"step": step, "files": files, "hmac": _sealed(files, step, key)}
        with storage.filesystem.open_output_stream(f"{target}/{_SEAL}") as stream:
            stream.write(json.dumps(seal).encode())
        for _, old in _steps(storage, work)[keep:]:
            storage.filesystem.delete_dir(old)
    dist.barrier()


def resume(engine: Any, storage: Storage, work: str, *, key: bytes) -> list[float]:
    """Loads the newest complete checkpoint into the engine, if there is one. A collective call.

    Returns:
        the losses of the steps done; empty where there is no checkpoint that this user's run sealed.
    """
    import torch.distributed as dist

    with tempfile.TemporaryDirectory(prefix="deshi-checkpoint-") as folder:
        found = [_newest(storage, work, Path(folder), key)]
        dist.broadcast_object_list(found, src=0)  # ranks must agree, even if they look at different moments
        if found[0] is None:
            return []
        if not (Path(folder) / _SEAL).exists() or _step_of(Path(folder)) != found[0]:
            _fetch(storage, f"{storage.root}/{work}/step-{found[0]:08d}", Path(folder), key)
        _, state = engine.load_checkpoint(folder, tag="state")
        return list(state["losses"])


def _newest(storage: Storage, work: str, folder: Path, key: bytes) -> int | None:
    for step, path in _steps(storage, work):
        if _fetch(storage, path, folder, key):
            return step
    return None


def _fetch(storage: Storage, source: str, folder: Path, key: bytes) -> bool:
    """Copies a checkpoint into `folder` if it is complete, unchanged and sealed with our key."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    try:
        with storage.filesystem.open_input_stream(f"{source}/{_SEAL}") as stream:
            seal = json.loads(stream.read())
        if not hmac.compare_digest(seal["hmac"], _sealed(seal["files"], seal["step"], key)):
            return False
        pafs.copy_files(source, str(folder), storage.filesystem, pafs.LocalFileSystem())
        return all(file_digest(folder / name) == digest for name, digest in seal["files"].items())
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _steps(storage: Storage, work: str) -> list[tuple[int, str]]:
    """(step, path) of the checkpoint folders, newest first."""
    selector = pafs.FileSelector(f"{storage.root}/{work}", allow_not_found=True)
    folders = [
        (int(info.base_name.removeprefix("step-")), info.path)
        for info in storage.filesystem.get_file_info(selector)
        if info.base_name.startswith("step-") and info.base_name.removeprefix("step-").isdigit()
    ]
    return sorted(folders, reverse=True)


def _step_of(folder: Path) -> int:
    return int(json.loads((folder / _SEAL).read_text(encoding="utf-8"))["step"])

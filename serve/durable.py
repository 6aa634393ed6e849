"""Writing that a kill or a power cut leaves whole: a file appears in one step, what was synced is on the disk."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def in_one_step(path: Path, *, private: bool = False) -> Iterator[Path]:
    """A hidden file beside `path` to write to: it takes that place when the block ends, and is gone if the block fails.

    It has the suffix of `path`. `private` is readable by its owner alone.

    Raises:
        ValueError: if nothing can be written there.
    """
    partial = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    partial.unlink(missing_ok=True)
    try:
        partial.touch(mode=0o600 if private else 0o666, exist_ok=False)
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror}); choose a folder that you may write to"
        ) from None
    try:
        yield partial
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def refuse_in_use(folder: Path) -> None:
    """Raises ValueError if something is there that a new folder would hide or lose."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; name another one or remove it")


@contextmanager
def folder_in_one_step(path: Path) -> Iterator[Path]:
    """A folder that is to be made beside `path`: it takes that place when the block ends, and is gone if it fails.

    Raises:
        ValueError: if there is something at `path` already.
    """
    refuse_in_use(path)
    # In a folder that exists: parents that are not there yet are made when there is something to put in them.
    there = next(parent for parent in path.absolute().parents if parent.is_dir())
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=there) as beside:
        partial = Path(beside) / path.name
        yield partial
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.rename(path)


def sync(path: Path) -> None:
    """Waits until a file's bytes, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path) -> None:
    """Waits for everything under a folder, and for the folder itself last."""
    for path in folder.rglob("*"):
        sync(path)
    sync(folder)

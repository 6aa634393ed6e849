"""Writing that a kill or a power cut leaves whole: a file appears in one step, what was synced is on the disk."""

from __future__ import annotations

import os
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

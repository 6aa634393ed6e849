"""Syncing to the disk: what was written is still there after a power cut."""

from __future__ import annotations

import os
from pathlib import Path


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

"""The ledger: one fsynced JSON line per finished thing. It is the truth that a killed run goes on from.

Trials (`trials.jsonl`) and latency measurements (`measurements.jsonl`) are such lines. A line that a kill cut in half
has no newline and is dropped when the ledger is opened; everything before it stands. Where the storage is not a local
disk, the whole small file is put again after each line, which object stores do in one step.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from deshi.jobs.storage import Storage


class Ledger:
    """An append-only file of JSON objects, each with a unique `id`."""

    def __init__(self, storage: Storage, name: str) -> None:
        """Opens `<storage>/<name>`, reading what is there and cutting a torn last line."""
        self._storage = storage
        self._remote = None if storage.is_local else f"{storage.root}/{name}"
        self._path = Path(storage.root) / name if storage.is_local else storage.scratch / name
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._remote is not None:
            there = storage.filesystem.get_file_info(self._remote).type == pafs.FileType.File
            self._path.write_bytes(b"")
            if there:
                pafs.copy_files(self._remote, str(self._path), storage.filesystem, pafs.LocalFileSystem())
        self._lines = self._read()

    def _read(self) -> dict[str, dict[str, Any]]:
        if not self._path.exists():
            return {}
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if whole != content:
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        lines: dict[str, dict[str, Any]] = {}
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                lines[entry["id"]] = entry
            except (ValueError, KeyError, TypeError):
                raise ValueError(
                    f"{self._path} line {number} is not a JSON object with an id; remove that line to go on"
                ) from None
        return lines

    def get(self, id: str) -> dict[str, Any] | None:
        """The line of that id, if it was written."""
        return self._lines.get(id)

    def lines(self) -> list[dict[str, Any]]:
        """All lines in the order they were written."""
        return list(self._lines.values())

    def append(self, id: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Writes one line; when this returns, a kill or a power cut no longer loses it.

        Raises:
            ValueError: if the id was written before: finished work is never done twice.
        """
        if id in self._lines:
            raise ValueError(f"{self._path} already holds {id!r}; a finished trial is not run again")
        line = {"id": id, **entry}
        with self._path.open("ab") as file:
            file.write(json.dumps(line, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        if self._remote is not None:
            self._storage.upload(self._path, self._remote)
        self._lines[id] = line
        return line

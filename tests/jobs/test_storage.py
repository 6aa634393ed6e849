"""Finished outputs appear whole or not at all, and are found again."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from deshi.jobs.storage import MANIFEST, Storage, canonical, file_digest


def write_number(folder: Path) -> None:
    (folder / "number.txt").write_text("42")


def test_a_finished_stage_is_not_built_again(tmp_path):
    storage, built = Storage(str(tmp_path)), []

    def build(folder: Path) -> None:
        built.append(folder)
        write_number(folder)

    first = storage.stage("count", {"n": 1}, build)
    again = storage.stage("count", {"n": 1}, build)
    other = storage.stage("count", {"n": 2}, build)
    assert first.key == again.key != other.key
    assert len(built) == 2
    assert (first.path / "number.txt").read_text() == "42"


def test_the_manifest_names_every_file_with_its_digest(tmp_path):
    out = Storage(str(tmp_path)).stage("count", {}, write_number).path
    manifest = json.loads((out / MANIFEST).read_text())
    assert manifest["files"] == {"number.txt": {"sha256": file_digest(out / "number.txt"), "bytes": 2}}


def test_a_stage_that_fails_leaves_nothing_behind(tmp_path):
    storage = Storage(str(tmp_path))

    def build(folder: Path) -> None:
        write_number(folder)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        storage.stage("count", {}, build)
    assert not storage.has(storage.key("count", {}))
    assert list(storage.scratch.iterdir()) == []


def _build_slowly(root: str) -> None:
    def build(folder: Path) -> None:
        write_number(folder)
        time.sleep(60)

    Storage(root).stage("count", {}, build)


def test_a_killed_build_is_invisible_and_swept(tmp_path):
    storage = Storage(str(tmp_path))
    process = multiprocessing.get_context("spawn").Process(target=_build_slowly, args=(str(tmp_path),))
    process.start()
    deadline = time.monotonic() + 30
    while not list(storage.scratch.glob("*/number.txt")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert list(storage.scratch.glob("*/number.txt")), "the build never started"
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    assert not storage.has(storage.key("count", {}))
    storage.sweep()
    assert list(storage.scratch.iterdir()) == []
    assert (storage.stage("count", {}, write_number).path / "number.txt").read_text() == "42"


def test_a_store_without_rename_gets_its_manifest_last(tmp_path):
    """The object-store path, over pyarrow's own sub-tree file system: every file is uploaded before the manifest."""
    storage = Storage(str(tmp_path))
    uploads: list[str] = []

    class Remote(Storage):
        is_local = False  # type: ignore[assignment]

        @property
        def filesystem(self) -> pafs.FileSystem:
            return pafs.LocalFileSystem()

        @property
        def root(self) -> str:
            return str(tmp_path / "bucket")

        @property
        def scratch(self) -> Path:
            return tmp_path / "scratch"

        def upload(self, path: Path, target: str) -> None:
            uploads.append(Path(target).name)
            super().upload(path, target)

    remote = Remote("memory://bucket")
    out = remote.stage("count", {}, write_number)
    assert uploads == ["number.txt", MANIFEST]
    assert out.path.parent == tmp_path / "scratch" / "fetched"
    assert (out.path / "number.txt").read_text() == "42"
    assert storage.is_local


def test_storage_that_cannot_be_written_is_refused_before_work(tmp_path):
    (tmp_path / "file").write_text("a file, no folder")
    with pytest.raises(ValueError, match=r"storage '.*file/runs' cannot be written \(.*\); give a folder or URI"):
        Storage(str(tmp_path / "file" / "runs")).refuse_unwritable()


def test_canonical_json_does_not_depend_on_the_order_of_keys():
    assert canonical({"b": 1, "a": [1, "ä"]}) == '{"a":[1,"ä"],"b":1}'.encode()

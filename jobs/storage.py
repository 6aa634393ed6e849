"""Finished work, content-addressed: `<storage>/<stage>-<digest>/` becomes visible in one step and is never changed.

The digest is the SHA-256 of what the output is made from: the stage's name, its inputs (digests of other outputs, its
part of the recipe) and the code version. The same question therefore has the same address, and resume is a cache hit.

`<storage>` is a folder or any URI that pyarrow or fsspec opens (`s3://...`). A stage builds in a private local folder.
On a local disk it is then renamed into place; elsewhere, where there is no rename, its files are copied first and
`stage.json` last, and readers open only what a manifest names.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import psutil
import pyarrow.fs as pafs

from deshi.jobs.stage_code import code_of
from deshi.serve.durable import sync, sync_tree

MANIFEST = "stage.json"
_PARTIAL = ".partial"


def canonical(value: Any) -> bytes:
    """JSON with sorted keys and no spaces: equal values have equal bytes."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str).encode()


def digest_of(value: Any) -> str:
    """SHA-256 of the canonical JSON, hex."""
    return hashlib.sha256(canonical(value)).hexdigest()


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@cache
def code_version(stage: str) -> str:
    """Digest of the code that made a stage's output."""
    return digest_of(sorted((name, file_digest(path)) for name, path in code_of(stage)))[:16]


@dataclass(frozen=True, kw_only=True)
class Output:
    """One finished stage output: its address and, through `path`, a local copy of its files."""

    key: str
    storage: Storage

    @property
    def path(self) -> Path:
        """A local folder that holds the output; fetched once where the storage is not a local disk."""
        return self.storage.fetch(self.key)

    @property
    def digest(self) -> str:
        """The digest in the key."""
        return self.key.rpartition("-")[2]

    @property
    def seconds(self) -> float:
        """Wall time that the stage took when it really ran."""
        return float(json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))["seconds"])


class Storage:
    """All finished work under one URI. Cheap to make; picklable (it is its URI)."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __reduce__(self) -> tuple[type[Storage], tuple[str]]:
        return Storage, (self.uri,)

    @property
    def is_local(self) -> bool:
        """Whether the URI is a folder of this machine's file system."""
        return "://" not in self.uri or self.uri.startswith("file://")

    @cached_property
    def _opened(self) -> tuple[pafs.FileSystem, str]:
        if self.is_local:
            return pafs.LocalFileSystem(), str(Path(self.uri.removeprefix("file://")).absolute())
        try:
            return pafs.FileSystem.from_uri(self.uri)
        except Exception:  # pyarrow knows few schemes; fsspec knows the rest
            import fsspec

            filesystem, path = fsspec.core.url_to_fs(self.uri)
            return pafs.PyFileSystem(pafs.FSSpecHandler(filesystem)), path

    @property
    def filesystem(self) -> pafs.FileSystem:
        """The pyarrow file system behind the URI."""
        return self._opened[0]

    @property
    def root(self) -> str:
        """The path of the URI inside `filesystem`."""
        return self._opened[1]

    @property
    def scratch(self) -> Path:
        """A local folder for unfinished work: beside the finished where that is local, so that a rename suffices."""
        if self.is_local:
            return Path(self.root) / _PARTIAL
        return Path.home() / ".cache" / "deshi" / digest_of(self.uri)[:16]

    def refuse_unwritable(self) -> None:
        """Raises ValueError, before any work, if nothing can be written at the URI."""
        probe = f"{self.root}/.probe-{uuid.uuid4().hex}"
        try:
            self.filesystem.create_dir(self.root, recursive=True)
            with self.filesystem.open_output_stream(probe) as stream:
                stream.write(b"")
            self.filesystem.delete_file(probe)
        except Exception as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(
                f"storage {self.uri!r} cannot be written ({reason}); give a folder or URI that you may write to"
            ) from None

    def has(self, key: str) -> bool:
        """Whether the output is finished: its manifest, written last, is there."""
        return bool(self.filesystem.get_file_info(f"{self.root}/{key}/{MANIFEST}").type == pafs.FileType.File)

    def key(self, stage: str, inputs: Mapping[str, Any]) -> str:
        """The address of a stage's output: `<stage>-<16 hex digits>`."""
        return f"{stage}-{digest_of({'stage': stage, 'inputs': inputs, 'code': code_version(stage)})[:16]}"

    def stage(self, name: str, inputs: Mapping[str, Any], build: Callable[[Path], None]) -> Output:
        """The output of a stage: taken from the cache, or built by `build(empty local folder)` and published.

        A process that dies inside `build` leaves only a folder under `.partial`, which the next run sweeps.
        """
        key = self.key(name, inputs)
        if self.has(key):
            return Output(key=key, storage=self)
        self.scratch.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{key}-{os.getpid()}-", dir=self.scratch))
        began = time.perf_counter()
        try:
            build(folder)
            manifest = {
                "key": key,
                "inputs": inputs,
                "code": code_version(name),
                "seconds": round(time.perf_counter() - began, 3),
                "files": {
                    str(path.relative_to(folder)): {"sha256": file_digest(path), "bytes": path.stat().st_size}
                    for path in sorted(folder.rglob("*"))
                    if path.is_file()
                },
            }
            (folder / MANIFEST).write_bytes(json.dumps(manifest, indent=2, default=str).encode())
            self._publish(folder, key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return Output(key=key, storage=self)

    def _publish(self, folder: Path, key: str) -> None:
        folder.chmod(0o755)
        if self.is_local:
            sync_tree(folder)
            try:
                folder.rename(Path(self.root) / key)
            except OSError:
                if not self.has(key):  # somebody else finished the same work first: theirs is as good
                    raise
            sync(Path(self.root))
            return
        target = f"{self.root}/{key}"
        for path in sorted(folder.rglob("*")):
            if path.is_file() and path.name != MANIFEST:
                self.upload(path, f"{target}/{path.relative_to(folder)}")
        self.upload(folder / MANIFEST, f"{target}/{MANIFEST}")

    def upload(self, path: Path, target: str) -> None:
        """Copies one local file to `target`, a path inside `filesystem`."""
        self.filesystem.create_dir(target.rpartition("/")[0], recursive=True)
        pafs.copy_files(str(path), target, pafs.LocalFileSystem(), self.filesystem)

    def fetch(self, key: str) -> Path:
        """A local folder with a finished output.

        Raises:
            ValueError: if the output is not there.
        """
        if not self.has(key):
            raise ValueError(f"{self.uri}/{key} is not finished; run `deshi poc` again, it goes on where it stopped")
        if self.is_local:
            return Path(self.root) / key
        copy = self.scratch / "fetched" / key
        if not copy.is_dir():
            copy.parent.mkdir(parents=True, exist_ok=True)
            arriving = Path(tempfile.mkdtemp(prefix=f"{key}-{os.getpid()}-", dir=copy.parent))
            pafs.copy_files(f"{self.root}/{key}", str(arriving), self.filesystem, pafs.LocalFileSystem())
            try:
                arriving.rename(copy)
            except OSError:
                shutil.rmtree(arriving, ignore_errors=True)
        return copy

    def verify(self, key: str) -> None:
        """Recomputes the SHA-256 of every file of a finished output.

        Raises:
            ValueError: naming the first file, in sorted order, that differs, is missing or is extra.
        """
        folder = self.fetch(key)
        named = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))["files"]
        there = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} - {MANIFEST}
        for name in sorted(there | set(named)):
            if name not in named or name not in there or file_digest(folder / name) != named[name]["sha256"]:
                raise ValueError(
                    f"{self.uri}/{key}/{name} is not the file that this run was made from; remove {key} and run the "
                    f"recipe again"
                )

    def sweep(self) -> None:
        """Removes unfinished folders of processes that are gone."""
        if not self.scratch.is_dir():
            return
        for folder in self.scratch.iterdir():
            owner = folder.name.split("-")[-2] if folder.name.count("-") >= 2 else ""
            if owner.isdigit() and not psutil.pid_exists(int(owner)):
                shutil.rmtree(folder, ignore_errors=True)

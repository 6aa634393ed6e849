"""The release: what is served, and the proof that it is what was judged.

    release/
      serving.json  model/  engines/<build>/   what a candidate has, see deshi.serve.serving
      manifest.json                            SHA-256 and bytes of each file, verdict, KPIs, lineage, ...

`write` copies to a hidden sibling, syncs it to the disk, the manifest last, and makes it visible by one
rename; a kill at any moment leaves a complete release that `find` returns. `verify` recomputes everything
and names the first file that differs. An object store has no rename: upload the files, the manifest last.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

from pydantic import Field, ValidationError

from deshi.serve.durable import sync, sync_tree
from deshi.serve.kpi import Frozen, Kpi, Target
from deshi.serve.serving import ENGINES_FOLDER, SERVING_FILE, Serving

MANIFEST_FILE = "manifest.json"

# Formats that run code when they are opened, by name; `_runs_code` looks into the bytes as well.
FORBIDDEN_SUFFIXES = frozenset(
    (
        ".bin",
        ".ckpt",
        ".dill",
        ".dll",
        ".joblib",
        ".npy",
        ".npz",
        ".pickle",
        ".pkl",
        ".pt",
        ".pth",
        ".py",
        ".pyc",
        ".so",
    )
)


class FileDigest(Frozen):
    """What one file must be."""

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    bytes: int = Field(ge=0)


class Manifest(Frozen):
    """`manifest.json`. `files` is filled by `write`; everything else is said by who decided."""

    schema_version: Literal[1] = 1
    name: str
    created: str = Field(description="UTC, ISO 8601")
    decision: Literal["ACCEPT", "REJECT", "INCONCLUSIVE"]
    reasons: tuple[str, ...] = ()
    kpi: Kpi
    targets: tuple[Target, ...]
    files: dict[str, FileDigest] = Field(default_factory=dict, description="relative path -> what it must be")
    lineage: dict[str, str] = Field(
        default_factory=dict,
        description="digests of recipe, splits, teacher, answers, student, evidence, ...",
    )
    licences: dict[str, str] = Field(default_factory=dict, description="of the teacher, the data, ...")
    versions: dict[str, str] = Field(default_factory=dict)
    commit: str = ""

    @classmethod
    def read(cls, folder: Path, name: str = MANIFEST_FILE) -> Manifest:
        """Reads `folder`/manifest.json, or one of another name, without looking at the files it names.

        Raises:
            ValueError: if there is none or it is not of this schema.
        """
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise ValueError(f"{path} does not exist; give a release folder that `deshi poc` wrote")
        try:
            return cls.model_validate_json(path.read_bytes())
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the file"
            raise ValueError(f"{path} is no manifest ({where}: {first['msg']}); write the release again") from None


def write(content: Path, destination: Path, manifest: Manifest) -> Path:
    """Publishes a candidate's folder as a release in one step and returns where it lies.

    An accepted release is never replaced by another: that goes to `<destination>-<decision>-<digest8>`.
    A release with the same files and the same verdict is left as it is.

    Args:
        content: a folder with serving.json, model/ and engines/; it is copied, not moved.
        destination: the release folder, e.g. runs/trec/release.
        manifest: all but `files`.

    Raises:
        ValueError: if the content is no candidate or holds a file that a release may not hold.
    """
    Serving.read(content)
    entries = _entries(content)
    entries.pop(MANIFEST_FILE, None)
    for path, why_not in entries.items():
        if why_not is not None:
            raise ValueError(f"{content / path} {why_not}")
    files = {path: _digest_file(content / path) for path in entries}
    manifest = manifest.model_copy(update={"files": files})
    destination.parent.mkdir(parents=True, exist_ok=True)
    with _locked(destination):
        return _publish(content, destination, manifest)


def _publish(content: Path, destination: Path, manifest: Manifest) -> Path:
    here = _recovered(destination)
    if here is not None and Manifest.read(here).decision == "ACCEPT" and manifest.decision != "ACCEPT":
        name = f"{destination.name}-{manifest.decision.lower()}-{_digest_of(manifest)[:8]}"
        destination = destination.with_name(name)
        here = _recovered(destination)
    if here is not None and _same_but_for_time(Manifest.read(here), manifest) and not _differs(here):
        return here
    if here is None and destination.exists():
        raise ValueError(f"{destination} exists and is no release; move it away or release to another folder")

    incoming = _beside(destination, "incoming")
    shutil.rmtree(incoming, ignore_errors=True)
    for path in manifest.files:
        (incoming / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(content / path, incoming / path)
    sync_tree(incoming)
    # The manifest is what makes a folder complete, so it appears last and whole.
    partial = incoming / f"{MANIFEST_FILE}.partial"
    partial.write_text(manifest.model_dump_json(indent=2) + "\n", encoding="utf-8")
    sync(partial)
    partial.rename(incoming / MANIFEST_FILE)
    sync(incoming)
    verify(incoming)

    # Two renames, with a gap between them that `_recovered` closes after a kill.
    previous = _beside(destination, "previous")
    shutil.rmtree(previous, ignore_errors=True)
    if destination.exists():
        destination.rename(previous)
    incoming.rename(destination)
    sync(destination.parent)
    shutil.rmtree(previous, ignore_errors=True)
    return destination


def find(destination: Path) -> Path | None:
    """The release at `destination`, or None; finishes a swap that a kill has broken off."""
    if (destination / MANIFEST_FILE).is_file():
        return destination
    if not destination.parent.is_dir():
        return None
    with _locked(destination):
        return _recovered(destination)


def _recovered(destination: Path) -> Path | None:
    """Called with the lock held, when no writer lives: what lies beside is what a killed one has left."""
    if (destination / MANIFEST_FILE).is_file():
        return destination
    previous = _beside(destination, "previous")
    if not (previous / MANIFEST_FILE).is_file():
        return None
    # The old release was set aside, so the new one was complete: its manifest was written and synced before.
    incoming = _beside(destination, "incoming")
    (incoming if (incoming / MANIFEST_FILE).is_file() else previous).rename(destination)
    sync(destination.parent)
    shutil.rmtree(previous, ignore_errors=True)
    return destination


@contextmanager
def _locked(destination: Path) -> Iterator[None]:
    """One writer or repairer at a time; the system lets go of the lock when its holder is killed."""
    with _beside(destination, "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def verify(folder: Path) -> Manifest:
    """Recomputes the SHA-256 of every file of a release.

    Raises:
        ValueError: naming the first file, in sorted order, that differs, is missing, extra or forbidden.
    """
    manifest = Manifest.read(folder)
    if (reason := _differs(folder)) is not None:
        raise ValueError(reason)
    return manifest


def digest(folder: Path) -> str:
    """The SHA-256 over the names and digests of a release's files: what is served, not when it was judged."""
    return _digest_of(Manifest.read(folder))


def opened(folder: Path, *, despite_verdict: bool = False) -> tuple[Serving, Manifest | None]:
    """Reads what is to be served. A release is verified; a candidate under measurement has no manifest yet.

    Raises:
        ValueError: if a file differs, or the verdict is not ACCEPT and `despite_verdict` is not set.
    """
    manifest = None
    if (folder / MANIFEST_FILE).exists():
        manifest = verify(folder)
        refuse_unless_accepted(manifest, despite_verdict)
    return Serving.read(folder), manifest


def refuse_unless_accepted(manifest: Manifest, despite_verdict: bool) -> None:
    """Only an accepted release is served, unless a person says otherwise.

    Raises:
        ValueError: naming the verdict, its reason and the flag.
    """
    if manifest.decision == "ACCEPT" or despite_verdict:
        return
    reason = f" ({manifest.reasons[0]})" if manifest.reasons else ""
    raise ValueError(
        f"release {manifest.name!r} was judged {manifest.decision}{reason}; "
        "read its report, or add --despite-verdict to serve it all the same"
    )


def _differs(folder: Path) -> str | None:
    """Why this folder is not what its manifest says, in one sentence, or None."""
    files = Manifest.read(folder).files
    if SERVING_FILE not in files:
        return f"{folder / MANIFEST_FILE} names no {SERVING_FILE}; write the release again"
    entries = _entries(folder)
    entries.pop(MANIFEST_FILE, None)
    for path in sorted(entries.keys() | files.keys()):
        if PurePosixPath(path).is_absolute() or ".." in PurePosixPath(path).parts or "\\" in path:
            return f"{path!r} in {folder / MANIFEST_FILE} leaves the release folder; write the release again"
        if path not in entries:
            return f"{folder / path} is missing; write the release again"
        if (why_not := entries[path]) is not None:
            return f"{folder / path} {why_not}"
        if path not in files:
            return f"{folder / path} is extra, the manifest does not name it; remove it"
        if _digest_file(folder / path) != files[path]:
            return f"{folder / path} differs from its SHA-256 in the manifest; write the release again"
    return None


def _entries(folder: Path) -> dict[str, str | None]:
    """The files under `folder`: relative POSIX path -> why a release may not hold it, or None."""
    entries = {}
    for parent, folders, names in os.walk(folder):
        for path in (Path(parent) / name for name in [*names, *folders]):
            if path.is_symlink() or not path.is_dir():
                entries[path.relative_to(folder).as_posix()] = _why_not(path)
    return dict(sorted(entries.items()))


def _why_not(path: Path) -> str | None:
    if path.is_symlink():
        return "is a symbolic link; a release holds plain files only, put a copy there"
    if not path.is_file():
        return "is no plain file; remove it"
    if (code := _runs_code(path)) is not None:
        return f"{code}; a release holds data only (safetensors, JSON, engine files), remove it"
    return None


def _runs_code(path: Path) -> str | None:
    openvino_weights = path.suffix == ".bin" and ENGINES_FOLDER in path.parts and path.with_suffix(".xml").is_file()
    if path.suffix.lower() in FORBIDDEN_SUFFIXES and not openvino_weights:
        return f"has the suffix {path.suffix!r}, which may hold code"
    with path.open("rb") as file:
        head = file.read(4)
        file.seek(0, os.SEEK_END)
        size = file.tell()
        file.seek(max(0, size - 1))
        last = file.read(1)
    if head == b"PK\x03\x04":
        return "is a zip archive, as a torch pickle is"
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and last == b".":
        return "is a pickle"
    return None


def _digest_file(path: Path) -> FileDigest:
    with path.open("rb") as file:
        return FileDigest(sha256=hashlib.file_digest(file, "sha256").hexdigest(), bytes=path.stat().st_size)


def _digest_of(manifest: Manifest) -> str:
    lines = "".join(f"{file.sha256}  {path}\n" for path, file in sorted(manifest.files.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _same_but_for_time(one: Manifest, other: Manifest) -> bool:
    return one.model_copy(update={"created": ""}) == other.model_copy(update={"created": ""})


def _beside(destination: Path, what: str) -> Path:
    return destination.with_name(f".{destination.name}.{what}")

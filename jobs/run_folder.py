"""A run's folder, `<storage>/<name>/`: evidence.json, report.html, trials.parquet and release/.

Where a model behind a URL was judged there is nothing to serve: judged.json, a manifest without files, stands in the
place of the release.

The finished outputs that it was made from lie beside it in the storage. Where the storage is not a local disk, the
folder is laid out here first and then uploaded, the release's manifest last.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from deshi.jobs.contender import Contender
from deshi.jobs.data.split import table_fingerprint
from deshi.jobs.evidence.compare import Comparison
from deshi.jobs.evidence.page import formats
from deshi.jobs.evidence.page.formats import Format
from deshi.jobs.evidence.people.review_schema import REVIEW_FILE, Review
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.evidence.trace import Traced, trace
from deshi.jobs.ladder import Line
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Storage, digest_of, file_digest
from deshi.jobs.trial import Bench
from deshi.serve import release
from deshi.serve.release import MANIFEST_FILE, Manifest
from deshi.serve.serving import SERVING_FILE
from deshi.serve.texts import Language

EVIDENCE_FILE = "evidence.json"
TRIALS_FILE = "trials.parquet"
ANSWERS_FILE = "test-answers.parquet"
WRITTEN_FILE = "written-answers.parquet"  # of a language model only
JUDGED_BY = {  # lineage -> file
    "evidence": EVIDENCE_FILE,
    "trials": TRIALS_FILE,
    "test_answers": ANSWERS_FILE,
    "written_answers": WRITTEN_FILE,
}
JUDGED_FILE = "judged.json"
KEY = re.compile(r"[a-z]+-[0-9a-f]{16}")  # an address in the storage
RELEASE_FOLDER = "release"


@dataclass(frozen=True, kw_only=True)
class RunFolder:
    """One run's folder, held by one driver at a time."""

    name: str
    path: Path
    storage: Storage

    @classmethod
    @contextmanager
    def taken(cls, recipe: Recipe, storage: Storage) -> Iterator[RunFolder]:
        """The folder, locked against a second driver, and the leftovers of dead ones swept.

        Raises:
            ValueError: if another process works on the same run.
        """
        path = (Path(storage.root) if storage.is_local else storage.scratch) / recipe.name
        path.mkdir(parents=True, exist_ok=True)
        with (path / ".lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise ValueError(
                    f"run {recipe.name!r} in {storage.uri} is being worked on by another process; wait for it or give "
                    f"this recipe another name"
                ) from None
            storage.sweep()
            yield cls(name=recipe.name, path=path, storage=storage)

    def publish(self, told: Comparison, lesson: Lesson, winner: Contender, bench: Bench, lines: Sequence[Line]) -> Path:
        """Writes trials, answers, evidence, report and release, each in one step; returns the release's folder.

        An accepted release of an earlier run stays where it is if this one is not accepted.
        """
        judging, made = self._write(told, lines), winner.finalist
        of_winner = {"student": made.model.key, "served": made.folder.key}
        manifest = _manifest(told.evidence, lesson, bench, of_winner | judging)
        released = release.write(made.folder.path, self.path / RELEASE_FOLDER, manifest)
        self._forget(JUDGED_FILE)
        self._report_and_upload(released)
        return released

    def publish_judged(self, told: Comparison, lesson: Lesson, bench: Bench) -> Path:
        """The same of a model behind a URL, with judged.json in the release's place; returns the run's folder."""
        manifest = _manifest(told.evidence, lesson, bench, self._write(told, ()))
        written = manifest.model_dump_json(indent=2) + "\n"
        _in_one_step(self.path / JUDGED_FILE, lambda path: path.write_text(written, encoding="utf-8"))
        self._report_and_upload()
        return self.path

    def refuse_release(self) -> None:
        """Raises ValueError if a release lies here: a verdict on a URL would stand beside what it did not judge."""
        there = f"{self.storage.root}/{self.name}/{RELEASE_FOLDER}/{MANIFEST_FILE}"
        kept = self.storage.filesystem.get_file_info(there).type == pafs.FileType.File
        if kept or release.find(self.path / RELEASE_FOLDER) is not None:
            raise ValueError(
                f"{self.path} holds a release to serve, and a URL has none; give this verdict another --name"
            )

    def _forget(self, name: str) -> None:
        """Removes what an earlier run of this name has left, on a remote storage too."""
        (self.path / name).unlink(missing_ok=True)
        if not self.storage.is_local:
            with suppress(FileNotFoundError):
                self.storage.filesystem.delete_file(f"{self.storage.root}/{self.name}/{name}")

    def _write(self, told: Comparison, lines: Sequence[Line]) -> dict[str, str]:
        """Writes trials, answers and evidence, and returns their digests, as a manifest's lineage names them."""
        evidence = told.evidence
        rows = [{**line, "candidate": dict(line["candidate"]), "params": None} for line in lines]
        _in_one_step(self.path / TRIALS_FILE, lambda path: pq.write_table(pa.Table.from_pylist(rows), path))
        _in_one_step(self.path / ANSWERS_FILE, lambda path: pq.write_table(told.answers, path))
        (self.path / WRITTEN_FILE).unlink(missing_ok=True)  # of an earlier run of this name
        if told.written is not None:
            _in_one_step(self.path / WRITTEN_FILE, lambda path: pq.write_table(told.written, path))
        written = evidence.model_dump_json(indent=2) + "\n"
        _in_one_step(self.path / EVIDENCE_FILE, lambda path: path.write_text(written, encoding="utf-8"))
        judging = {what: name for what, name in JUDGED_BY.items() if name != WRITTEN_FILE or told.written is not None}
        return {what: file_digest(self.path / name) for what, name in judging.items()}

    def _report_and_upload(self, released: Path | None = None) -> None:
        write_report(str(self.path), lang="ja", out=None)
        if self.storage.is_local:
            return
        target = f"{self.storage.root}/{self.name}"
        files = [path for path in self.path.iterdir() if path.is_file() and not path.name.startswith(".")]
        if released is not None:
            files += [path for path in released.rglob("*") if path.is_file()]
        # What proves the rest comes last.
        for path in sorted(files, key=lambda path: path.name in (MANIFEST_FILE, JUDGED_FILE)):
            self.storage.upload(path, f"{target}/{path.relative_to(self.path)}")


def _manifest(evidence: Evidence, lesson: Lesson, bench: Bench, lineage: dict[str, str]) -> Manifest:
    """What was decided, on what; `lineage` is of this model, and of the files that it was judged by."""
    return Manifest(
        name=evidence.name,
        created=evidence.created,
        decision=evidence.verdict.decision,
        reasons=tuple(reason.text for reason in evidence.verdict.reasons),
        kpi=lesson.recipe.kpi,
        targets=lesson.recipe.targets,
        lineage={
            "recipe": digest_of(evidence.recipe),
            "splits": lesson.splits_key,
            "yardstick": bench.yardstick_key,
            "teacher": lesson.teacher_key,
            "answers": lesson.answers_key,
        }
        | lineage,
        licences=evidence.licences,
        versions=evidence.versions,
        commit=evidence.commit,
    )


def release_of(run: str) -> Path:
    """The release folder of a run, or the folder itself if it is one; fetched first where it is not on a local disk.

    Raises:
        ValueError: if there is none.
    """
    folder = _local(run)
    if (folder / SERVING_FILE).is_file():
        return folder
    found = release.find(folder / RELEASE_FOLDER) if folder.is_dir() else None
    if found is None and (folder / JUDGED_FILE).is_file():
        raise ValueError(f"{run} judged a model behind a URL, so there is nothing here to serve; ask its vendor's URL")
    if found is None:
        raise ValueError(f"{run} holds no release; run `deshi poc RECIPE` first and give <storage>/<name>")
    return found


def write_report(run: str, *, lang: Language, out: Path | None, form: Format = "html") -> str:
    """Writes the report from a run's evidence and returns its path.

    Raises:
        ValueError: if the run has no evidence, or none of its releases was judged by it as it stands.
    """
    folder = _local(run)
    folder = folder.parent if (folder / SERVING_FILE).is_file() else folder
    evidence = folder / EVIDENCE_FILE
    judged = _releases_judged_by(folder) if evidence.is_file() else {}
    if evidence.is_file() and file_digest(evidence) not in judged:
        raise ValueError(
            f"{evidence} is not the file that a release of this run was judged by, and a report is made from evidence "
            f"that verifies only; run the recipe again"
        )
    review = None
    if judged and (folder / REVIEW_FILE).is_file():
        said = Review.model_validate_json((folder / REVIEW_FILE).read_text(encoding="utf-8"))
        review = said if said.release == judged.get(file_digest(evidence)) else None  # else of an earlier release
    return str(formats.write(evidence, out or folder, lang, form, review=review))


def _releases_judged_by(folder: Path) -> dict[str | None, str]:
    """Digest of the evidence that a release names -> of its manifest. An accepted release stays beside later ones."""
    release.find(folder / RELEASE_FOLDER)
    manifests = [*folder.glob(f"{RELEASE_FOLDER}*/{MANIFEST_FILE}"), *folder.glob(JUDGED_FILE)]
    return {Manifest.read(path.parent, path.name).lineage.get("evidence"): file_digest(path) for path in manifests}


def proof_of(folder: Path) -> Path:
    """The file whose digest names what a run's folder judged: its release's manifest, or judged.json."""
    judged = folder / JUDGED_FILE
    return judged if judged.is_file() else folder / RELEASE_FOLDER / MANIFEST_FILE


def verify(run: str) -> str:
    """Recomputes all digests of a run and says so: the release, the evidence, and what they were made from.

    Raises:
        ValueError: naming the first file that differs.
    """
    beside, manifest, said = _proven(run)
    if not (beside / EVIDENCE_FILE).is_file():
        return f"{said}; its evidence is not beside it and was not verified"
    for key, name in JUDGED_BY.items():
        if name == WRITTEN_FILE and key not in manifest.lineage:
            continue
        if not (beside / name).is_file() or file_digest(beside / name) != manifest.lineage.get(key):
            raise ValueError(
                f"{beside / name} is not the file that the release was judged by "
                f"({manifest.lineage.get(key, 'none')[:12]}); run the recipe again"
            )
    return f"{said}; {_verify_sources(_storage_of(run), manifest, beside / EVIDENCE_FILE)}"


def _proven(run: str) -> tuple[Path, Manifest, str]:
    """Where a run's evidence lies, its release's verified manifest or its judged.json, and that in words."""
    folder = _local(run)
    if (folder / JUDGED_FILE).is_file():
        manifest = Manifest.read(folder, JUDGED_FILE)
        return folder, manifest, f"{folder}: a model behind a URL, so no release; verdict {manifest.decision}"
    released = release_of(run)
    manifest = release.verify(released)
    words = f"{released}: all {len(manifest.files)} files are as the manifest says; verdict {manifest.decision}"
    return released.parent, manifest, words


def verified(run: str) -> tuple[Path, Manifest, Storage]:
    """A run's folder on this disk, its release's manifest, and the storage that it was made from, all as judged.

    Raises:
        ValueError: as `verify` does, or if the evidence is not there.
    """
    verify(run)
    folder, manifest, _ = _proven(run)
    if not (folder / EVIDENCE_FILE).is_file():
        raise ValueError(f"{run} holds a release without its evidence; give the run's folder, <storage>/<name>")
    storage = _storage_of(run) if "://" in run else Storage(str(folder.absolute().parent))
    return folder, manifest, storage


def traced(run: str, pointer: str) -> Traced:
    """Follows a number of a verified run's evidence; see `trace.trace`.

    Raises:
        ValueError: as `verified` does, or if the pointer leads nowhere.
    """
    folder, manifest, storage = verified(run)
    test = storage.fetch(manifest.lineage["splits"]) / "test.parquet"
    return trace(folder / EVIDENCE_FILE, pointer, answers=folder / ANSWERS_FILE, test=test)


def keep(run: str, name: str, content: bytes) -> Path:
    """Writes a file beside a run's evidence in one step, on a remote storage too, and returns where it lies here."""
    folder = _local(run)
    path = (folder if (folder / JUDGED_FILE).is_file() else release_of(run).parent) / name
    _in_one_step(path, lambda partial: partial.write_bytes(content))
    if "://" in run and not run.startswith("file://"):
        storage, of_run = _storage_of(run), run.rstrip("/").rpartition("/")[2]
        storage.upload(path, f"{storage.root}/{of_run}/{name}")
    return path


def _verify_sources(storage: Storage, manifest: Manifest, evidence: Path) -> str:
    """Recomputes the finished outputs that a release was made from, and the rows' fingerprint."""
    keys = [key for key in manifest.lineage.values() if KEY.fullmatch(key)]
    for key in (there := [key for key in keys if storage.has(key)]):
        storage.verify(key)
    splits = manifest.lineage["splits"]
    if splits in there:
        told = Evidence.model_validate_json(evidence.read_text(encoding="utf-8")).data.fingerprints
        for name, fingerprint in told.items():
            if table_fingerprint(pq.read_table(storage.fetch(splits) / f"{name}.parquet")) != fingerprint:
                raise ValueError(f"the {name} rows of {splits} are not those of {evidence}; run the recipe again")
    said = f"{len(there)} of {len(keys)} outputs that it was made from are unchanged"
    gone = [key for key in keys if key not in there]
    return said + (f", not there any more: {', '.join(gone)}" if gone else "")


def _storage_of(run: str) -> Storage:
    return Storage(run.rstrip("/").rpartition("/")[0] if "://" in run else str(Path(run).absolute().parent))


def _local(run: str) -> Path:
    """The run's folder on this disk; a remote one is fetched once for each state it has been in."""
    if "://" not in run or run.startswith("file://"):
        return Path(run.removeprefix("file://"))
    storage, name = _storage_of(run), run.rstrip("/").rpartition("/")[2]
    for proof in (JUDGED_FILE, f"{RELEASE_FOLDER}/{MANIFEST_FILE}"):
        try:
            with storage.filesystem.open_input_file(f"{storage.root}/{name}/{proof}") as file:
                state = hashlib.sha256(file.read()).hexdigest()
            break
        except FileNotFoundError:
            continue
    else:
        raise ValueError(f"{run} holds no release; run `deshi poc RECIPE` first and give <storage>/<name>")
    copy = storage.scratch / "runs" / f"{name}-{state[:16]}"
    if not copy.is_dir():
        copy.parent.mkdir(parents=True, exist_ok=True)
        arriving = Path(tempfile.mkdtemp(prefix=f"{copy.name}-{os.getpid()}-", dir=copy.parent))
        pafs.copy_files(f"{storage.root}/{name}", str(arriving), storage.filesystem, pafs.LocalFileSystem())
        arriving.rename(copy)
    return copy


def _in_one_step(path: Path, write: object) -> None:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    write(partial)  # type: ignore[operator]
    partial.replace(path)

"""A run's folder, `<storage>/<name>/`: evidence.json, report.html, trials.parquet and release/.

Where a model behind a URL was judged there is nothing to serve: judged.json, a manifest without files, stands in the
place of the release.

The finished outputs that it was made from lie beside it in the storage. Where the storage is not a local disk, the
folder is laid out here first and then uploaded, the release's manifest last.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq

from deshi.jobs.contender import Contender
from deshi.jobs.evidence.compare import Comparison
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.finished_run import (
    ANSWERS_FILE,
    EVIDENCE_FILE,
    JUDGED_BY,
    JUDGED_FILE,
    RELEASE_FOLDER,
    TRIALS_FILE,
    WRITTEN_FILE,
    write_report,
)
from deshi.jobs.ladder import Line
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Storage, digest_of, file_digest
from deshi.jobs.trial import Bench
from deshi.serve import release
from deshi.serve.durable import in_one_step
from deshi.serve.release import MANIFEST_FILE, Manifest


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
        with in_one_step(self.path / JUDGED_FILE) as partial:
            partial.write_text(written, encoding="utf-8")
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
        rows = [{**line, "candidate": dict(line["candidate"]), "params": None} for line in lines]
        tables = {TRIALS_FILE: pa.Table.from_pylist(rows), ANSWERS_FILE: told.answers}
        (self.path / WRITTEN_FILE).unlink(missing_ok=True)  # of an earlier run of this name
        tables |= {} if told.written is None else {WRITTEN_FILE: told.written}
        for name, table in tables.items():
            with in_one_step(self.path / name) as partial:
                pq.write_table(table, partial)
        with in_one_step(self.path / EVIDENCE_FILE) as partial:
            partial.write_text(told.evidence.model_dump_json(indent=2) + "\n", encoding="utf-8")
        judging = {what: name for what, name in JUDGED_BY.items() if name in (*tables, EVIDENCE_FILE)}
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

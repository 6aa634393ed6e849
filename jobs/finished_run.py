"""A finished run, found again and held against its proofs: its release, evidence, report, and any number of it.

A run is given as `<storage>/<name>` or by its release's folder; one on a remote storage is fetched first. What a run's
folder holds is laid down in `run_folder.py`.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from pathlib import Path

import pyarrow.fs as pafs
import pyarrow.parquet as pq

from deshi.jobs.data.split import table_fingerprint
from deshi.jobs.evidence.page import formats
from deshi.jobs.evidence.page.formats import Format
from deshi.jobs.evidence.people.review_schema import REVIEW_FILE, Review
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.evidence.trace import Traced, trace
from deshi.jobs.storage import Storage, file_digest
from deshi.serve import release
from deshi.serve.durable import in_one_step
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
    return f"{said}; {_verify_beside(beside, manifest, _storage_of(run, beside))}"


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
    folder, manifest, _ = _proven(run)
    if not (folder / EVIDENCE_FILE).is_file():
        raise ValueError(f"{run} holds a release without its evidence; give the run's folder, <storage>/<name>")
    storage = _storage_of(run, folder)
    _verify_beside(folder, manifest, storage)
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
    with in_one_step(path) as partial:
        partial.write_bytes(content)
    if not _is_local(run):
        storage, of_run = _remote(run)
        storage.upload(path, f"{storage.root}/{of_run}/{name}")
    return path


def _verify_beside(folder: Path, manifest: Manifest, storage: Storage) -> str:
    """Recomputes what a release was judged by and what it was made from, and says the latter."""
    for key, name in JUDGED_BY.items():
        if name == WRITTEN_FILE and key not in manifest.lineage:
            continue
        if not (folder / name).is_file() or file_digest(folder / name) != manifest.lineage.get(key):
            raise ValueError(
                f"{folder / name} is not the file that the release was judged by "
                f"({manifest.lineage.get(key, 'none')[:12]}); run the recipe again"
            )
    return _verify_sources(storage, manifest, folder / EVIDENCE_FILE)


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


def _is_local(run: str) -> bool:
    return "://" not in run or run.startswith("file://")


def _remote(run: str) -> tuple[Storage, str]:
    """The storage of a run that is given by a URI, and the run's name in it."""
    place, _, name = run.rstrip("/").rpartition("/")
    return Storage(place), name


def _storage_of(run: str, folder: Path) -> Storage:
    """The storage that a run's folder on this disk is of."""
    return Storage(str(folder.absolute().parent)) if _is_local(run) else _remote(run)[0]


def _local(run: str) -> Path:
    """The run's folder on this disk; a remote one is fetched once for each state it has been in."""
    if _is_local(run):
        return Path(run.removeprefix("file://"))
    storage, name = _remote(run)
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

"""People judge a run: the sheets that go out (`deshi review`), and the filled ones that come back (`... import`).

    <storage>/<name>/review-key.json   which answer is whose; stays here
                     review.html .xlsx for the staff, or in another folder
                     review.json       what they said, for the report

Both need a run whose release and evidence are as they were judged: an answer that nobody gave must not be rated.
"""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ValidationError

from deshi.jobs import finished_run
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.numbers import PERCENT, PLAIN, POINTS, Style, interval, style_of, written
from deshi.jobs.evidence.people.review import review
from deshi.jobs.evidence.people.review_answers import ratings_of
from deshi.jobs.evidence.people.review_sample import Pair, draw, shown
from deshi.jobs.evidence.people.review_schema import KEY_FILE, REVIEW_FILE, Review, ReviewKey
from deshi.jobs.evidence.people.review_sheet import SHEET_HTML, SHEET_XLSX, page, workbook
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.storage import file_digest
from deshi.serve.durable import in_one_step

STUDENT, TEACHER = "chosen", "teacher"


def write_sheets(run: str, *, rows: int, out: Path | None) -> list[Path]:
    """Draws the items, keeps the key in the run's folder and writes both sheets to `out`, by default there too.

    Raises:
        ValueError: if the run does not verify, or a key to other items of the same release would be lost.
    """
    folder, manifest, storage = finished_run.verified(run)
    evidence, release = _evidence(folder), _release(folder)
    table = pq.read_table(storage.fetch(manifest.lineage["splits"]) / "test.parquet")
    pairs = _pairs(folder, evidence, table["text"].to_pylist())
    key = draw(pairs, items=rows, seed=evidence.recipe["seed"], release=release)
    before = _key(folder)
    if before is not None and before.release == release and before != key:
        raise ValueError(
            f"{folder / KEY_FILE} is the key to sheets with {len(before.items)} other items of this release; ask for "
            f"--rows {len(before.items)}, or remove it if nobody has been given those sheets"
        )
    items = shown(pairs, key)
    made = {
        SHEET_HTML: page(items, name=evidence.name, release=release).encode(),
        SHEET_XLSX: workbook(items, name=evidence.name, release=release),
    }
    finished_run.keep(run, KEY_FILE, (key.model_dump_json(indent=2) + "\n").encode())
    return [_written((out or folder) / name, content) for name, content in made.items()]


def import_answers(run: str, files: Sequence[Path]) -> Review:
    """Reads what people said, all files at once, and keeps it as `review.json`, in place of an earlier one.

    Raises:
        ValueError: in one sentence; then the earlier review is still as it was.
    """
    folder, _, _ = finished_run.verified(run)
    key = _key(folder)
    if key is None:
        raise ValueError(f"{folder / KEY_FILE} does not exist; write the sheets with `deshi review {run}` first")
    if key.release != (release := _release(folder)):
        raise ValueError(
            f"{folder / KEY_FILE} is the key to sheets of release {key.release[:12]} and this is {release[:12]}; write "
            f"new sheets with `deshi review {run}`"
        )
    ratings = ratings_of(files, key)
    found = review(
        key,
        ratings,
        _evidence(folder),
        files={file_digest(path): path.name for path in files},
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    finished_run.keep(run, REVIEW_FILE, (found.model_dump_json(indent=2) + "\n").encode())
    return found


def table(found: Review) -> str:
    """The figures as lines for a terminal."""

    def cell(figure: Figure, style: Style) -> str:
        ends = interval(figure, style, "en")
        return written(figure.value, style, "en") + (f" ({ends})" if ends else "")

    lines = [f"{found.raters} raters, {found.items} items for {found.rows} rows; release {found.release[:12]}"]
    lines.append(f"{'':12}  {'student':26}  {'teacher':26}  student - teacher")
    for name in ("satisfaction", "satisfied", "handled"):
        of = [getattr(side, name) for side in (found.student, found.teacher, found.difference)]
        points = POINTS if of[2].unit == "share" else style_of(of[2].unit)
        cells = [cell(of[0], style_of(of[0].unit)), cell(of[1], style_of(of[1].unit)), cell(of[2], points)]
        lines.append(f"{name:12}  {cells[0]:26}  {cells[1]:26}  {cells[2]}")
    lines.append(f"{'preference':12}  {cell(found.preference, PERCENT)} for the student, n {found.preference.n}")
    lines.append(f"{'agreement':12}  {cell(found.agreement, PLAIN)}")
    if found.experience is not None:
        lines.append(f"{'experience':12}  {cell(found.experience, style_of(found.experience.unit))} a month")
    return "\n".join(lines)


def write_page(run: str) -> Path:
    """Writes the run's page again, now that people were asked, and returns where it lies."""
    page = Path(finished_run.write_report(run, lang="ja", out=None))
    return finished_run.keep(run, page.name, page.read_bytes())


def _pairs(folder: Path, evidence: Evidence, texts: Sequence[str]) -> list[Pair]:
    """What student and teacher answered, of each test row that both answered."""
    if evidence.task == "classify":
        answers, column, asked = pq.read_table(folder / finished_run.ANSWERS_FILE), "answer", dict(enumerate(texts))
    else:
        if not (folder / finished_run.WRITTEN_FILE).is_file():
            raise ValueError(f"{folder} holds no {finished_run.WRITTEN_FILE}; run the recipe again, it keeps them now")
        answers, column = pq.read_table(folder / finished_run.WRITTEN_FILE), "text"
        asked = _prompts(texts, evidence)
    student, teacher = (_of_model(answers, name, column) for name in (STUDENT, TEACHER))
    return [
        Pair(row=row, text=asked[row], student=student[row], teacher=teacher[row])
        for row in sorted(student.keys() & teacher.keys() & asked.keys())
    ]


def _prompts(texts: Sequence[str], evidence: Evidence) -> dict[int, str]:
    """What a language model was asked to answer or to continue, by row."""
    from deshi.jobs.evidence.text.written_answers import prompts_of

    asked = prompts_of(list(texts), evidence.recipe["data"]["format"])
    return {
        row: "\n".join(f"{turn['role']}: {turn['content']}" for turn in prompt.messages) or prompt.text
        for row, prompt in asked
    }


def _of_model(answers: pa.Table, name: str, column: str) -> dict[int, str]:
    return {row["row"]: row[column] or "" for row in answers.to_pylist() if row["model"] == name}


def _evidence(folder: Path) -> Evidence:
    return Evidence.model_validate_json((folder / finished_run.EVIDENCE_FILE).read_text(encoding="utf-8"))


def _release(folder: Path) -> str:
    return file_digest(finished_run.proof_of(folder))


def _key(folder: Path) -> ReviewKey | None:
    try:
        return ReviewKey.model_validate_json((folder / KEY_FILE).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValidationError, UnicodeDecodeError):
        raise ValueError(f"{folder / KEY_FILE} is no key of this version; remove it and write new sheets") from None


def _written(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path) as partial:
        partial.write_bytes(content)
    return path

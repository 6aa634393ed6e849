"""`deshi changes RUN`: the test rows whose answer is no longer the teacher's, for people who judge them one by one.

Customer text is in no report; this is the one place where it is written out, on request, beside the run, readable by
its owner alone, and masked unless `--unmasked` is given (`masking.py`). Each row: its number in the test split, the
text, the right label, the teacher's answer, the new answer and how sure the model was of it.
"""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deshi.jobs.evidence.risk import masking
from deshi.jobs.evidence.risk.risk_schema import Changed
from deshi.jobs.finished_run import ANSWERS_FILE, verified
from deshi.serve.durable import in_one_step
from deshi.serve.texts import Language, text

PAGE, LINES = "changed-answers.html", "changed-answers.jsonl"
Kind = Literal["to_wrong", "to_right", "between_wrong"]
KINDS: tuple[Kind, ...] = ("to_wrong", "to_right", "between_wrong")


@dataclass(frozen=True, kw_only=True)
class Change:
    """One row of the test split that is answered otherwise than by the teacher."""

    row: int
    kind: Kind
    text: str
    label: str
    teacher: str
    answer: str
    confidence: float | None


def kind_of(label: str, taught: str, answer: str | None) -> Kind | None:
    """What became of the teacher's answer; None where it stayed."""
    if answer == taught:
        return None
    if taught == label:
        return "to_wrong"
    return "to_right" if answer == label else "between_wrong"


def counted(told: pa.Table, taught: pa.Table) -> Changed:
    """How many answers changed, of two models' rows as `Answered` keeps them, in the same order."""
    columns = (told["label"].to_pylist(), taught["answer"].to_pylist(), told["answer"].to_pylist())
    kinds = [kind_of(*each) for each in zip(*columns, strict=True)]
    return Changed(rows=len(kinds), **{kind: kinds.count(kind) for kind in KINDS})


def changed(told: pa.Table, taught: pa.Table, texts: Sequence[str], *, masked: bool) -> list[Change]:
    """The rows that changed: those that became wrong first, the surest of them first."""
    found = []
    for line, answer in zip(told.to_pylist(), taught["answer"].to_pylist(), strict=True):
        kind = kind_of(line["label"], answer, line["answer"])
        if kind is None:
            continue
        shown = texts[line["row"]]
        found.append(
            Change(
                row=line["row"],
                kind=kind,
                text=masking.mask(shown) if masked else shown,
                label=line["label"],
                teacher=answer,
                answer=line["answer"] or "",  # a vendor's model may give none of the labels, and no confidence
                confidence=None if line["confidence"] is None else round(line["confidence"], 4),
            )
        )
    return sorted(found, key=lambda change: (KINDS.index(change.kind), -(change.confidence or 0.0), change.row))


def write_changes(run: str, *, unmasked: bool = False, lang: Language = "en") -> Path:
    """Writes the page and the lines beside the run, on this disk alone, and returns the page's path.

    Raises:
        ValueError: if the run is no finished classifier's, or its answers or rows are not those it was judged by.
    """
    folder, manifest, storage = verified(run)
    told = pq.read_table(folder / ANSWERS_FILE)
    if "answer" not in told.column_names:
        raise ValueError(f"{run} writes text and has no single answers to compare; `deshi changes` is for classifiers")
    texts = pq.read_table(storage.fetch(manifest.lineage["splits"]) / "test.parquet")["text"].to_pylist()
    of_model = {name: told.filter(pc.equal(told["model"], name)) for name in ("chosen", "teacher")}
    rows = changed(of_model["chosen"], of_model["teacher"], texts, masked=not unmasked)
    lines = "".join(json.dumps(asdict(row), ensure_ascii=False) + "\n" for row in rows)
    _write_privately(folder / LINES, lines)
    counts = counted(of_model["chosen"], of_model["teacher"])
    _write_privately(folder / PAGE, page(rows, counts, name=manifest.name, masked=not unmasked, lang=lang))
    return folder / PAGE


def page(rows: Sequence[Change], counts: Changed, *, name: str, masked: bool, lang: Language) -> str:
    """One HTML file that opens offline; a table, nothing else."""
    columns = ("row", "kind", "text", "label", "teacher", "answer", "confidence")
    head = "".join(f'<th scope="col">{_said(f"changes.column.{column}", lang)}</th>' for column in columns)
    body = "".join(f"<tr class={row.kind}>{_cells(row, lang)}</tr>\n" for row in rows)
    title = html.escape(text("changes.title", lang, name=name))
    summary = html.escape(text("changes.summary", lang, n=len(rows), **counts.model_dump()))
    notice = _said("changes.masked", lang) if masked else _said("changes.unmasked", lang)
    limits = f"<p>{_said(masking.CANNOT_FIND, lang)}</p>" if masked else ""
    return (
        f'<!doctype html>\n<html lang="{lang}"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style></head>\n<body><main><h1>{title}</h1>\n<p>{summary}</p>\n"
        f'<p role="note"><strong>{notice}</strong></p>{limits}\n'
        f'<div class="wide" role="region" aria-label="{title}" tabindex="0">'
        f"<table><thead><tr>{head}</tr></thead>\n<tbody>\n{body}</tbody></table></div></main></body></html>\n"
    )


_STYLE = (
    "body{font:16px/1.6 system-ui,sans-serif;color:#1b1b1b;background:#fff;margin:2rem}h1{font-size:1.4rem}"
    ".wide{overflow-x:auto}table{border-collapse:collapse}th,td{border:1px solid #949494;padding:.4rem .6rem;"
    "text-align:left;vertical-align:top}td:nth-child(3){min-width:18rem;white-space:pre-wrap;overflow-wrap:anywhere}"
    "th{background:#f0f0f0}.to_wrong td:nth-child(2){font-weight:700}@media print{body{margin:0;font-size:10pt}}"
)


def _cells(row: Change, lang: Language) -> str:
    shown = (
        str(row.row),
        text(f"changes.kind.{row.kind}", lang),
        row.text,
        row.label,
        row.teacher,
        row.answer,
        "–" if row.confidence is None else f"{row.confidence:.3f}",
    )
    return "".join(f"<td>{html.escape(cell)}</td>" for cell in shown)


def _said(key: str, lang: Language) -> str:
    return html.escape(text(key, lang))


def _write_privately(path: Path, content: str) -> None:
    with in_one_step(path, private=True) as partial:
        partial.write_text(content, encoding="utf-8")

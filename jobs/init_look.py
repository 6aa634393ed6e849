"""A first look at a file of rows: which columns it has, and what they seem to be.

Guesses are read from the first `SEEN_ROWS` rows; a person confirms them. A file that cannot be read at all is refused
here, a bad row later by the readers of `jobs/data`, which name it.

    messages     a list of {role, content}
    text         of the columns whose every value is a text, the one with the longest mean
    label        of the other columns with few different values, the one that is called so, else the one with the fewest
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from deshi.jobs.data.conversations import Format
from deshi.jobs.data.rows import decoded, read_bytes

SUFFIXES = (".csv", ".jsonl", ".parquet", ".txt")
SEEN_ROWS = 2000
LABEL_NAMES = (
    "label",
    "labels",
    "class",
    "category",
    "intent",
    "ラベル",
    "分類",
    "カテゴリ",
    "カテゴリー",
    "区分",
    "種別",
)
CLASSES_MOST = 200
ROWS_A_CLASS = 3  # a column with more different values than a third of the rows names no classes

Task = Literal["classify", "generate"]


@dataclass(frozen=True, kw_only=True)
class Look:
    """What the first rows show. A .txt has no columns; a guess that fails is None."""

    source: str
    columns: tuple[str, ...]
    task: Task
    format: Format | None  # of conversations and passages
    text: str | None
    label: str | None
    messages: str | None
    pair: str | None  # "prompt,completion"

    @property
    def is_plain(self) -> bool:
        """Whether it is a text file, one passage a paragraph."""
        return not self.columns


def look(source: str) -> Look:
    """Looks at a file.

    Raises:
        ValueError: in one sentence, for a file that is not there, cannot be read, or has no text.
    """
    suffix = PurePosixPath(source).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{source} ends in {suffix or 'no suffix'!r}; rows are read from {', '.join(SUFFIXES)}: convert the file"
        )
    if "://" not in source and not Path(source).expanduser().exists():
        raise ValueError(f"{source} does not exist; check the path")
    data = read_bytes(source)
    if not data.strip():
        raise ValueError(f"{source} is empty; it must hold at least one row")
    if suffix == ".txt":
        return Look(
            source=source, columns=(), task="generate", format="text", text=None, label=None, messages=None, pair=None
        )
    read = {".csv": _csv, ".jsonl": _jsonl, ".parquet": _parquet}[suffix]
    return guessed(source, read(source, data))


def guessed(source: str, columns: dict[str, list[Any]]) -> Look:
    """What columns seem to be, by their names and values.

    Raises:
        ValueError: where none of them holds text.
    """
    present = {name: [value for value in values if value not in (None, "")] for name, values in columns.items()}
    messages = next((name for name, values in present.items() if values and all(map(_is_talk, values))), None)
    pair = "prompt,completion" if {"prompt", "completion"} <= set(columns) else None
    text = _text(present)
    if messages is None and text is None:
        raise ValueError(
            f"{source} has no column of text (its columns: {', '.join(map(repr, columns)) or 'none'}); a text is a "
            "string: add a column that holds the texts"
        )
    label = None if text is None else _label(present, text)
    format: Format | None = "messages" if messages else "prompt_completion" if pair else None
    task: Task = "classify" if format is None and label is not None else "generate"
    return Look(
        source=source,
        columns=tuple(columns),
        task=task,
        format=format or ("text" if task == "generate" else None),
        text=text,
        label=label,
        messages=messages,
        pair=pair,
    )


def _text(present: dict[str, list[Any]]) -> str | None:
    lengths = {
        name: sum(map(len, values)) / len(values)
        for name, values in present.items()
        if values and all(isinstance(value, str) for value in values) and not all(map(_is_number, values))
    }
    return max(lengths, key=lambda name: lengths[name], default=None)


def _label(present: dict[str, list[Any]], text: str) -> str | None:
    kinds = (str, int, bool, float)
    few = {
        name: len(set(values))
        for name, values in present.items()
        if name != text and values and all(isinstance(value, kinds) for value in values)
    }
    named = next((name for name in few if name.strip().lower() in LABEL_NAMES), None)
    rows = max((len(values) for values in present.values()), default=0)
    few = {name: count for name, count in few.items() if 2 <= count <= max(2, min(CLASSES_MOST, rows // ROWS_A_CLASS))}
    return named or min(few, key=lambda name: few[name], default=None)


def _is_talk(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(turn, dict) and "role" in turn for turn in value)


def _is_number(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _csv(source: str, data: bytes) -> dict[str, list[Any]]:
    lines = csv.reader(io.StringIO(decoded(source, data), newline=""))
    try:
        names = next(lines)
        rows = list(islice(lines, SEEN_ROWS))
    except csv.Error as error:
        raise ValueError(f"{source} is not a CSV file with commas and a header ({error}); mend that row") from None
    return {name: [row[place] for row in rows if place < len(row)] for place, name in enumerate(names)}


def _jsonl(source: str, data: bytes) -> dict[str, list[Any]]:
    lines = (line for line in decoded(source, data).split("\n") if line.strip())
    columns: dict[str, list[Any]] = {}
    for line in islice(lines, SEEN_ROWS):
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue  # the reader names the line
        for name, value in record.items() if isinstance(record, dict) else ():
            columns.setdefault(name, []).append(value)
    return columns


def _parquet(source: str, data: bytes) -> dict[str, list[Any]]:
    try:
        first: Sequence[pa.RecordBatch] = list(islice(pq.ParquetFile(io.BytesIO(data)).iter_batches(SEEN_ROWS), 1))
    except (pa.ArrowException, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"{source} is not a whole Parquet file ({reason}); write it again from its source") from None
    columns: dict[str, list[Any]] = first[0].to_pydict() if first else {}
    return columns

"""Each text once: rows whose normalised text is the same become one row, and no text stands in two files.

The order of the result is that of the SHA-256 of the normalised text, whatever the order in the file. Rows
that share a text keep the label most of them carry; where two labels tie, the text keeps none (train) or is
dropped (validation and test, where a row without a label cannot be scored).
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from deshi.jobs.data.near_twins import normalise


@dataclass(frozen=True, kw_only=True)
class Distinct:
    """The rows of one file, each text once, with what it took."""

    table: pa.Table
    keys: tuple[bytes, ...]  # SHA-256 of the normalised text, ascending
    dropped: int  # rows that repeat another row's text, or whose label is undecided
    undecided: int  # texts whose labels tie


def distinct(table: pa.Table, *, keep_undecided: bool) -> Distinct:
    """Each text once, in an order that depends on the texts only."""
    texts: list[str] = table["text"].to_pylist()
    labels: list[str | None] = table["label"].to_pylist()
    others = [table[name].to_pylist() for name in table.column_names if name not in ("row", "text", "label")]
    keys = [hashlib.sha256(normalise(text).encode("utf-8", "surrogatepass")).digest() for text in texts]
    order = sorted(
        range(len(texts)),
        key=lambda at: (keys[at], texts[at], labels[at] or "", [column[at] or "" for column in others]),
    )
    chosen: list[int] = []
    chosen_labels: list[str | None] = []
    undecided = 0
    for _, same in groupby(order, key=lambda at: keys[at]):
        members = list(same)
        votes = Counter(label for at in members if (label := labels[at]) is not None).most_common()
        tie = len(votes) > 1 and votes[0][1] == votes[1][1]
        undecided += tie
        if tie and not keep_undecided:
            continue
        label = votes[0][0] if votes and not tie else None
        chosen.append(next((at for at in members if labels[at] == label), members[0]))
        chosen_labels.append(label)
    taken = table.take(pa.array(chosen, pa.int64()))
    taken = taken.set_column(taken.column_names.index("label"), "label", pa.array(chosen_labels, pa.string()))
    return Distinct(
        table=taken.replace_schema_metadata(None),
        keys=tuple(keys[at] for at in chosen),
        dropped=len(texts) - len(chosen),
        undecided=undecided,
    )


def refuse_shared_text(first: Distinct, second: Distinct, *, names: tuple[str, str]) -> None:
    """Refuses a text that stands in both files, naming the rows of the first pair.

    Raises:
        ValueError: where there is one.
    """
    place = {key: at for at, key in enumerate(first.keys)}
    pairs = [(place[key], at) for at, key in enumerate(second.keys) if key in place]
    if not pairs:
        return
    left, right = first.table["row"], second.table["row"]
    at, other = min(pairs, key=lambda pair: right[pair[1]].as_py())
    text = second.table["text"][other].as_py()
    raise ValueError(
        f"the same text in {names[0]} and {names[1]}: row {left[at]} of {names[0]} is row {right[other]} of "
        f"{names[1]} ({text[:60]!r}; {len(pairs)} such texts, case and spacing apart), but a text "
        f"may stand in one split only: remove it from {names[0]}"
    )


def refuse_classes(train: Distinct) -> tuple[str, ...]:
    """The classes of the labelled rows, sorted.

    Raises:
        ValueError: for fewer than two classes, or a class with a single row.
    """
    counts = Counter(train.table["label"].drop_null().to_pylist())
    if not counts:
        raise ValueError("no row of train has a label; label at least two rows of each class, or name the label column")
    if len(counts) == 1:
        raise ValueError(f"train has one class only, {next(iter(counts))!r}; a classifier needs two or more: add rows")
    single = sorted(name for name, count in counts.items() if count < 2)
    if single:
        raise ValueError(
            f"{_some(single)} {'has' if len(single) == 1 else 'have'} a single labelled row in train; "
            "a class needs two different texts: add rows, merge it into another class, or blank its label"
        )
    return tuple(sorted(counts))


def refuse_unscorable(rows: Distinct, labels: Sequence[str], *, name: str) -> None:
    """Refuses a split for scoring that has rows without a label, or a label that train lacks.

    Raises:
        ValueError: naming the first such row.
    """
    table = rows.table
    blank = table.filter(pc.is_null(table["label"]))
    if blank.num_rows:
        raise ValueError(
            f"{blank.num_rows} of {table.num_rows} rows of {name} have no label, row {pc.min(blank['row'])} "
            f"the first; {name} is scored by its labels: label them, or move them to train as unlabelled text"
        )
    unknown = sorted(set(table["label"].to_pylist()) - set(labels))
    if unknown:
        first = pc.min(table.filter(pc.equal(table["label"], unknown[0]))["row"])
        raise ValueError(
            f"label {_some(unknown)} in {name} (row {first}) is no label of train, which has "
            f"{_some(labels)}: label rows of it in train, or mend it in {name}"
        )
    if table.num_rows == 0:
        raise ValueError(f"{name} has no row left that could be scored; give each of its texts one label")


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(map(repr, names[:5]))
    return shown if len(names) <= 5 else f"{shown} and {len(names) - 5} more"

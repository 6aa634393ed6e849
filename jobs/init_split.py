"""The rows of a new recipe: read as a run reads them, and, where one file is all there is, parted into train and test.

A test part is drawn by the run's own rules (`jobs/data`): each text once, near-twins on one side, in proportion to the
classes, by a seed. It takes `share` of the labelled rows (of all rows where nothing is labelled),

    share = min(0.4, max(0.2, 1.05 x rows that prove the allowed drop / rows))

since a test that is too small to prove anything is of no use, and what is tested is not learned from. Both parts are
then split once as the run will split them, so that what a run would refuse is refused here.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from deshi.jobs.data.conversations import COLUMNS, Format, dropped_rows, plain, read_conversations
from deshi.jobs.data.distinct import distinct, refuse_classes
from deshi.jobs.data.hold_out import class_quota, hold_out
from deshi.jobs.data.near_twins import sketch, twin_groups
from deshi.jobs.data.rows import blank_rows, read_rows
from deshi.jobs.data.sequences import split_sequences
from deshi.jobs.data.split import first_slice, split_rows
from deshi.jobs.recipe import Data

SHARE_LEAST, SHARE_MOST = 0.2, 0.4
TEST_MOST = {"classify": 5000, "generate": 300}  # rows; a conversation is hundreds of tokens, each of them scored
SLACK = 1.05  # whole groups of near-twins seldom fill a class's quota
LEFT_IN_CLASS = 3  # rows of a class that stay to learn and to choose from
TEST_LEAST = 40  # even if no row differs, fewer prove no drop below a tenth


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What the rows are and how many there are of each."""

    rows: int  # read, blank ones and those that cannot be learned from left out
    dropped: int  # those
    repeated: int  # rows that repeat another row's text
    classes: dict[str, int]  # labelled rows by class, in train and test; empty where nothing is labelled
    unlabelled: int
    train: int  # to learn from, labelled or not
    selection: int  # held out to choose by: validation, and of a classifier agreement
    test: int
    near_twins: int  # test rows with a near-twin among those learned from
    left_out: int  # unlabelled near-twins of test rows, in neither part

    @property
    def labelled(self) -> int:
        """Labelled rows."""
        return sum(self.classes.values())


@dataclass(frozen=True, kw_only=True)
class Parts:
    """Train and test as the readers give them, and what there is to say of them."""

    train: pa.Table
    test: pa.Table
    facts: Facts


def rows_of(source: str, data: Data, task: str) -> pa.Table:
    """The rows of a file.

    Raises:
        ValueError: in one sentence, for a file or column that cannot be used; of labelled rows, for one class only.
    """
    if task == "generate":
        return read_conversations(
            source, format=data.format, column=data.column, loss_on=data.learned, slices=data.slices
        )
    rows = read_rows(source, text=data.text, label=data.label, slices=data.slices)
    refuse_classes(distinct(rows, keep_undecided=True))
    return rows


def parts_of(rows: pa.Table, test: pa.Table | None, data: Data, task: str, *, needed: int | None, seed: int) -> Parts:
    """Train and test: `rows` parted, or as two files give them.

    Args:
        rows: of the recipe's file.
        test: of a test file; None: a part of the rows.
        data: how they are read.
        task: of the recipe.
        needed: test rows that prove the allowed drop.
        seed: of the draw.

    Raises:
        ValueError: in one sentence, for rows that a run would refuse, or too few of them.
    """
    read, left_out = rows.num_rows + (0 if test is None else test.num_rows), 0
    dropped = sum(_dropped(table, task) for table in (rows, test) if table is not None)
    if test is None:
        train, test, repeated, left_out = _parted(rows, data.format, task, needed=needed, seed=seed)
    else:
        train, repeated = rows, 0
    if test.num_rows < TEST_LEAST:
        what = "labelled rows" if task == "classify" else "rows"
        raise ValueError(
            f"the test would have {test.num_rows} rows, and fewer than {TEST_LEAST} can prove nothing; give "
            f"{round(TEST_LEAST / SHARE_MOST)} or more {what}, or a test file of {TEST_LEAST} or more with --test"
        )
    if task == "classify":
        split = split_rows(train, test, seed=seed)
        learned, selection = split.train.num_rows + split.unlabelled.num_rows, split.validation.num_rows
        selection += split.agreement.num_rows
        told, near, again = split.test.num_rows, split.near_twins, split.duplicates_dropped
        labels = [label for table in (train, test) for label in table["label"].to_pylist()]
    else:
        texts = split_sequences({"train": train, "test": test}, format=data.format, loss_on=data.learned, seed=seed)
        learned, selection, told = texts.train.num_rows, texts.validation.num_rows, texts.test.num_rows
        near, again, labels = texts.near_twins, texts.duplicates_dropped, []
    facts = Facts(
        rows=read,
        dropped=dropped,
        repeated=repeated + again,
        classes=dict(sorted(Counter(label for label in labels if label is not None).items())),
        unlabelled=sum(label is None for label in labels),
        train=learned,
        selection=selection,
        test=told,
        near_twins=near,
        left_out=left_out,
    )
    return Parts(train=train, test=test, facts=facts)


def _parted(
    rows: pa.Table, format: Format, task: str, *, needed: int | None, seed: int
) -> tuple[pa.Table, pa.Table, int, int]:
    """Train, test, repeated rows that were dropped, unlabelled twins of test rows that were left out."""
    labelled = task == "classify"
    given = rows if labelled else rows.append_column("label", pa.nulls(rows.num_rows, pa.string()))
    file = distinct(given, keep_undecided=True)
    texts: list[str] = file.table["text"].to_pylist()
    groups = twin_groups(sketch(texts if labelled else [plain(text, format) for text in texts]))
    at = np.flatnonzero(np.asarray(pc.is_valid(file.table["label"]))) if labelled else np.arange(len(texts))
    labels = file.table["label"].to_pylist()
    classes = [labels[row] or "" for row in at.tolist()]
    quota = class_quota(Counter(classes), share=_share(len(at), needed, task), leave=LEFT_IN_CLASS)
    held = hold_out(groups=groups[at], classes=classes, slices=first_slice(file.table, at), quota=quota, seed=seed)
    test = np.zeros(len(texts), bool)
    test[at[held]] = True
    # An unlabelled twin of a test row can neither be tested nor learned from.
    out = ~test & np.isin(groups, groups[test]) & np.asarray(pc.is_null(file.table["label"])) & labelled
    table = file.table if labelled else file.table.drop_columns("label")
    train, tested = table.filter(pa.array(~test & ~out)), table.filter(pa.array(test))
    return train, tested, file.dropped, int(out.sum())


def _share(rows: int, needed: int | None, task: str) -> float:
    wanted = SLACK * max(TEST_LEAST, needed or 0) / max(1, rows)
    return min(max(SHARE_LEAST, wanted), SHARE_MOST, TEST_MOST[task] / max(1, rows))


def _dropped(table: pa.Table, task: str) -> int:
    return blank_rows(table) if task == "classify" else sum(dropped_rows(table).values())


def as_file(table: pa.Table, data: Data, task: str) -> pa.Table:
    """A part as a file that the recipe reads: its own columns, and `source_row`, the row's number in the given file."""
    columns: dict[str, Any] = {"source_row": table["row"]}
    if task == "classify":
        columns |= {data.text: table["text"], data.label: table["label"]}
    else:
        names = [name.strip() for name in (data.column or COLUMNS[data.format]).split(",")]
        columns |= dict(zip(names, _values(table["text"].to_pylist(), data.format), strict=True))
    columns |= {name: table[name] for name in data.slices}
    return pa.table(columns)


def _values(texts: Sequence[str], format: Format) -> list[list[Any]]:
    """The columns of a format, from the one `text` that the readers make of them."""
    if format == "text":
        return [list(texts)]
    said = [json.loads(text) for text in texts]
    if format == "messages":
        return [said]
    return [[pair["prompt"] for pair in said], [pair["completion"] for pair in said]]

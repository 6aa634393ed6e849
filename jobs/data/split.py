"""Splits: who may see which row. Made once, from the files that the recipe names, and fingerprinted.

Six Arrow tables with the columns row, text, label and the slices; `row` is unique over all of them, except
that the calibration rows are drawn from train and unlabelled. A text counts once (`distinct.py`). Near-twins
(`near_twins.py`) form groups, and groups are held out whole (`hold_out.py`).

- validation: the recipe's file, or 20% of the labelled rows (at most about 2,000), stratified on the class
  and the first slice; unlabelled twins of its rows go to agreement.
- agreement: 20% of the unlabelled rows (at most 1,000); with fewer than 100 of those, 10% of the labelled
  train rows, whose labels are then not used. Candidates are ranked on it by agreement with the teacher.
- calibration: at most 256 rows of train and unlabelled.

Rows are ordered by the SHA-256 of their text before anything is drawn, so the splits depend on the content
and the seed, not on the order of the rows in the files.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from deshi.jobs.data.distinct import (
    Distinct,
    distinct,
    refuse_classes,
    refuse_shared_text,
    refuse_unscorable,
)
from deshi.jobs.data.hold_out import class_quota, hold_out
from deshi.jobs.data.near_twins import sketch, twin_groups, twins_across
from deshi.jobs.data.rows import blank_rows, read_rows
from deshi.jobs.evidence.schema import DataFacts
from deshi.jobs.recipe import Data

NAMES = ("train", "unlabelled", "agreement", "calibration", "validation", "test")
VALIDATION_SHARE, VALIDATION_MOST, LABELLED_LEAST = 0.2, 2000, 20
AGREEMENT_SHARE, AGREEMENT_MOST, UNLABELLED_LEAST = 0.2, 1000, 100
AGREEMENT_SHARE_OF_LABELLED = 0.1
CALIBRATION_MOST = 256


@dataclass(frozen=True, kw_only=True)
class Splits:
    """The rows of a run. `notes` say in sentences how they were made."""

    train: pa.Table  # labelled
    unlabelled: pa.Table  # text to learn from without labels
    agreement: pa.Table  # held out; its labels are null
    calibration: pa.Table  # seen rows
    validation: pa.Table  # labelled
    test: pa.Table  # labelled
    labels: tuple[str, ...]  # sorted
    duplicates_dropped: int
    near_twins: int  # test rows with a near-twin among train and unlabelled
    notes: tuple[str, ...] = ()

    def table(self, name: str) -> pa.Table:
        """The split of that name, one of `NAMES`."""
        table: pa.Table = getattr(self, name)
        return table

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each split's values, whatever the order of its rows."""
        return {name: table_fingerprint(self.table(name)) for name in NAMES}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all splits and the labels."""
        return text_sha256(json.dumps([self.fingerprints, self.labels], sort_keys=True))

    def facts(self, *, truncated: Mapping[str, float] | None = None) -> DataFacts:
        """What the evidence says; `truncated` is the share of rows cut at max_length, by split."""
        return DataFacts(
            rows={name: self.table(name).num_rows for name in NAMES},
            labels={
                "training": self.train.num_rows,
                "selection": self.validation.num_rows,
                "test": self.test.num_rows,
            },
            classes=self.labels,
            truncated=dict(truncated or {}),
            duplicates_dropped=self.duplicates_dropped,
            near_twins=self.near_twins,
            fingerprints=self.fingerprints,
            notes=self.notes,
        )

    def write(self, folder: Path) -> None:
        """One Parquet file for each split, and `splits.json`."""
        folder.mkdir(parents=True, exist_ok=True)
        for name in NAMES:
            pq.write_table(self.table(name), folder / f"{name}.parquet")
        facts = {
            "labels": self.labels,
            "duplicates_dropped": self.duplicates_dropped,
            "near_twins": self.near_twins,
            "notes": self.notes,
            "fingerprint": self.fingerprint,
        }
        text = json.dumps(facts, ensure_ascii=False, indent=1)
        (folder / "splits.json").write_text(text, encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Self:
        """What `write` wrote."""
        facts = json.loads((folder / "splits.json").read_text(encoding="utf-8"))
        tables = {name: pq.read_table(folder / f"{name}.parquet") for name in NAMES}
        return cls(
            **tables,
            labels=tuple(facts["labels"]),
            duplicates_dropped=facts["duplicates_dropped"],
            near_twins=facts["near_twins"],
            notes=tuple(facts["notes"]),
        )


def make_splits(data: Data, *, seed: int) -> Splits:
    """Reads the recipe's files and splits them.

    Raises:
        ValueError: in one sentence, for files or rows that cannot be used.
    """
    read = partial(read_rows, text=data.text, label=data.label, slices=data.slices)
    validation = None if data.validation is None else read(data.validation)
    return split_rows(read(data.train), read(data.test), validation, seed=seed)


def split_rows(train: pa.Table, test: pa.Table, validation: pa.Table | None = None, *, seed: int) -> Splits:
    """Splits tables as `read_rows` gives them; the columns beside row, text and label are the slices."""
    given = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    files = {name: distinct(table, keep_undecided=name == "train") for name, table in given.items()}
    labels = refuse_classes(files["train"])
    for name in [name for name in files if name != "train"]:
        refuse_unscorable(files[name], labels, name=name)
        refuse_shared_text(files["train"], files[name], names=("train", name))
    if validation is not None:
        refuse_shared_text(files["validation"], files["test"], names=("validation", "test"))
    notes = [note for name in files for note in _what_was_dropped(name, given[name], files[name])]

    # One IDF over all files; rows are numbered through, in the order of their texts.
    tables, vectors = _numbered(files)
    source, groups = tables["train"], twin_groups(vectors["train"])
    part = np.where(np.asarray(pc.is_valid(source["label"])), "train", "unlabelled").astype("U10")
    if validation is None:
        part, note = _split_off_validation(source, part, groups, seed)
        notes.append(note)
    part, note = _split_off_agreement(source, part, groups, seed)
    notes.append(note)

    seen = np.isin(part, ("train", "unlabelled"))
    picked = np.random.default_rng([seed, 3]).permutation(np.flatnonzero(seen))[:CALIBRATION_MOST]
    held = tables["validation"] if validation is not None else source.filter(part == "validation")
    held_vectors = vectors["validation"] if validation is not None else vectors["train"][part == "validation"]
    twins = int(twins_across(held_vectors, vectors["train"][seen]).sum())
    if twins:
        notes.append(f"{twins} of {held.num_rows} validation rows have a near-twin among the rows to learn from.")
    agreement = source.filter(part == "agreement")
    return Splits(
        train=source.filter(part == "train"),
        unlabelled=_without_labels(source.filter(part == "unlabelled")),
        agreement=_without_labels(agreement),
        calibration=source.take(np.sort(picked)),
        validation=held,
        test=tables["test"],
        labels=labels,
        duplicates_dropped=sum(file.dropped for file in files.values()),
        near_twins=int(twins_across(vectors["test"], vectors["train"][seen]).sum()),
        notes=tuple(notes),
    )


def _split_off_validation(source: pa.Table, part: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    labelled = np.flatnonzero(part == "train")
    classes = [source["label"][at].as_py() for at in labelled.tolist()]
    share = min(VALIDATION_SHARE, VALIDATION_MOST / len(labelled))
    quota = class_quota(Counter(classes), share=share)
    if len(labelled) < LABELLED_LEAST or not sum(quota.values()):
        raise ValueError(
            f"train has {len(labelled)} labelled texts in {len(quota)} classes, too few to split off "
            f"a validation set ({LABELLED_LEAST} are needed, and a class with three): label more rows, "
            "or name a file in data.validation"
        )
    held = hold_out(
        groups=groups[labelled],
        classes=classes,
        slices=first_slice(source, labelled),
        quota=quota,
        seed=seed,
    )
    part = part.copy()
    part[labelled[held]] = "validation"
    # Unlabelled twins of a validation row may not be learned from either.
    part[(part == "unlabelled") & np.isin(groups, groups[part == "validation"])] = "agreement"
    return part, (
        f"Validation is {int(held.sum())} of {len(labelled)} labelled rows ({share:.0%} of each class, "
        "two rows of it stay in train), stratified on the class and the first slice, near-twins together."
    )


def _split_off_agreement(source: pa.Table, part: np.ndarray, groups: np.ndarray, seed: int) -> tuple[np.ndarray, str]:
    part = part.copy()
    unlabelled = np.isin(part, ("unlabelled", "agreement"))
    if unlabelled.sum() < UNLABELLED_LEAST:
        rows = np.flatnonzero(part == "train")
        classes = [source["label"][at].as_py() for at in rows.tolist()]
        quota = class_quota(Counter(classes), share=min(AGREEMENT_SHARE_OF_LABELLED, AGREEMENT_MOST / len(rows)))
        if not sum(quota.values()):
            raise ValueError(
                f"train has {len(rows)} labelled texts, at most two of a class, and {int(unlabelled.sum())} "
                f"unlabelled ones, too few to hold out rows for ranking: "
                f"add {UNLABELLED_LEAST} unlabelled rows, or label more"
            )
        note = f"rows, mostly labelled ones whose labels are not used (under {UNLABELLED_LEAST} unlabelled)"
    else:
        # A twin of a labelled row stays where it can be learned from.
        free = (part == "unlabelled") & ~np.isin(groups, groups[part == "train"])
        wanted = min(AGREEMENT_MOST, round(AGREEMENT_SHARE * int(unlabelled.sum())))
        missing = max(0, wanted - int((part == "agreement").sum()))
        rows = np.flatnonzero(free if free.sum() >= missing else part == "unlabelled")
        classes, quota = [""] * len(rows), {"": missing}
        note = f"of {int(unlabelled.sum())} unlabelled rows"
    held = hold_out(groups=groups[rows], classes=classes, slices=first_slice(source, rows), quota=quota, seed=seed + 1)
    part[rows[held]] = "agreement"
    return part, f"Agreement with the teacher is read on {int((part == 'agreement').sum())} {note}."


def _numbered(files: Mapping[str, Distinct]) -> tuple[dict[str, pa.Table], dict[str, np.ndarray]]:
    vectors = sketch([text for file in files.values() for text in file.table["text"].to_pylist()])
    tables, parts, start = {}, {}, 0
    for name, file in files.items():
        end = start + file.table.num_rows
        at = file.table.column_names.index("row")
        tables[name] = file.table.set_column(at, "row", pa.array(np.arange(start, end), pa.int64()))
        parts[name] = vectors[start:end]
        start = end
    return tables, parts


def _what_was_dropped(name: str, given: pa.Table, file: Distinct) -> list[str]:
    what = [
        (blank_rows(given), "rows with a blank text were dropped"),
        (
            file.dropped,
            "rows that repeat another row's text were dropped (the label most of them carry is kept)",
        ),
        (
            file.undecided,
            "texts carry several labels equally often and count as unlabelled (train) or not at all",
        ),
    ]
    return [f"{count} {words} in {name}." for count, words in what if count]


def first_slice(source: pa.Table, rows: np.ndarray) -> list[str]:
    """The first slice column of some rows; empty strings where there is none."""
    names = [name for name in source.column_names if name not in ("row", "text", "label")]
    if not names:
        return [""] * len(rows)
    return [value or "" for value in source[names[0]].take(rows).to_pylist()]


def _without_labels(table: pa.Table) -> pa.Table:
    nothing = pa.nulls(table.num_rows, pa.string())
    return table.set_column(table.column_names.index("label"), "label", nothing)


def table_fingerprint(table: pa.Table) -> str:
    """SHA-256 of a table's values, whatever the order of its rows."""
    columns = [table[name].to_pylist() for name in table.column_names]
    rows = (json.dumps(row, ensure_ascii=False) for row in zip(*columns, strict=True))
    return text_sha256("\n".join([json.dumps(table.column_names), *sorted(text_sha256(row) for row in rows)]))


def text_sha256(text: str) -> str:
    """SHA-256 in hexadecimal; half a surrogate pair is hashed as it stands."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()

"""Splits of a language model's text: who may see which row. Made once, from the recipe's files, and fingerprinted.

Five Arrow tables with the columns row, text and the slices (what `text` holds: `conversations.py`); `row` is unique
over all of them, except that the calibration rows are drawn from train. A text counts once, case and spacing apart
(`distinct.py`), and the same text in train and test is refused. Texts that are almost the same (`near_twins.py`,
compared by what is said in them) are allowed between train and test, and counted; where validation is split off, they
are kept on one side.

- validation: the recipe's file, or 10% of train (at most 500 rows), in proportion to the first slice.
- calibration: at most 256 rows of train.
- forget: passages of another domain, for what was forgotten; empty where the recipe names none.

Rows are ordered by the SHA-256 of their text before anything is drawn, so the splits depend on the content and the
seed, not on the order of the rows in the files; and the first n rows of a split are a random sample of it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deshi.jobs.data.conversations import Format, LossOn, dropped_rows, plain, read_conversations, refuse_loss
from deshi.jobs.data.distinct import Distinct, distinct, refuse_shared_text
from deshi.jobs.data.hold_out import hold_out
from deshi.jobs.data.near_twins import sketch, twin_groups, twins_across
from deshi.jobs.data.render import Sequences, cut_rows, render
from deshi.jobs.data.split import CALIBRATION_MOST, first_slice, table_fingerprint, text_sha256
from deshi.jobs.evidence.schema import DataFacts

NAMES = ("train", "calibration", "validation", "test", "forget")
VALIDATION_SHARE, VALIDATION_MOST, TRAIN_LEAST = 0.1, 500, 20
LEADING_ROWS = 64  # rendered at a time where only some are wanted


@dataclass(frozen=True, kw_only=True)
class SequenceSplits:
    """The rows of a run. `notes` say in sentences how they were made."""

    train: pa.Table
    calibration: pa.Table  # seen rows
    validation: pa.Table
    test: pa.Table
    forget: pa.Table  # passages, whatever the format of the other splits
    format: Format
    loss_on: LossOn
    duplicates_dropped: int
    near_twins: int  # test rows with a near-twin in train
    notes: tuple[str, ...] = ()

    def table(self, name: str) -> pa.Table:
        """The split of that name, one of `NAMES`."""
        table: pa.Table = getattr(self, name)
        return table

    def sequences(
        self, name: str, folder: Path, *, max_length: int, begin: int = 0, end: int | None = None
    ) -> Sequences:
        """The tokens of a split's rows `begin` up to `end`, under the tokenizer of a model folder."""
        rows = self.table(name)[begin:end]
        of_format: Format = "text" if name == "forget" else self.format
        learned: LossOn = "all" if name == "forget" else self.loss_on
        return render(folder, rows["text"].to_pylist(), format=of_format, loss_on=learned, max_length=max_length)

    def leading(self, name: str, folder: Path, *, max_length: int, tokens: int | None) -> Sequences:
        """The tokens of as many leading rows as hold `tokens` tokens in rows that teach something; None: of all rows.

        A rendering asks the chat template for every turn, so rows that are not needed are not rendered.
        """
        rows = self.table(name).num_rows
        if tokens is None:
            return self.sequences(name, folder, max_length=max_length)
        ids: list[NDArray[np.int32]] = []
        masks: list[NDArray[np.bool_]] = []
        cut, counted = 0, 0
        for begin in range(0, rows, LEADING_ROWS):
            some = self.sequences(name, folder, max_length=max_length, begin=begin, end=begin + LEADING_ROWS)
            filled = counted + np.cumsum(np.where(some.learned > 0, some.lengths, 0))
            enough = int(np.searchsorted(filled, tokens)) + 1
            ids += some.input_ids[:enough]
            masks += some.loss_mask[:enough]
            cut += some.cut
            counted = int(filled[-1])
            if counted >= tokens:
                break
        return Sequences(input_ids=ids, loss_mask=masks, cut=cut)

    def cut_share(self, name: str, folder: Path, *, max_length: int) -> float:
        """The share of a split's rows that are longer than `max_length` tokens."""
        texts = self.table(name)["text"].to_pylist()
        format: Format = "text" if name == "forget" else self.format
        return cut_rows(folder, texts, format=format, max_length=max_length) / max(1, len(texts))

    @cached_property
    def fingerprints(self) -> dict[str, str]:
        """SHA-256 of each split's values, whatever the order of its rows."""
        return {name: table_fingerprint(self.table(name)) for name in NAMES}

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over all splits and what is learned from them."""
        return text_sha256(json.dumps([self.fingerprints, self.format, self.loss_on], sort_keys=True))

    def facts(self, *, truncated: Mapping[str, float] | None = None) -> DataFacts:
        """What the evidence says; `truncated` is the share of rows cut at max_length, by split."""
        return DataFacts(
            rows={name: self.table(name).num_rows for name in NAMES},
            labels={},
            classes=(),
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
            pq.write_table(self.table(name), folder / f"{name}.parquet", compression="zstd")
        facts = {
            "format": self.format,
            "loss_on": self.loss_on,
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
            format=facts["format"],
            loss_on=facts["loss_on"],
            duplicates_dropped=facts["duplicates_dropped"],
            near_twins=facts["near_twins"],
            notes=tuple(facts["notes"]),
        )


def make_sequence_splits(
    *,
    train: str | Path,
    test: str | Path,
    validation: str | Path | None = None,
    forget: str | Path | None = None,
    format: Format,
    column: str | None = None,
    loss_on: LossOn,
    slices: tuple[str, ...] = (),
    seed: int,
) -> SequenceSplits:
    """Reads the recipe's files and splits them.

    Raises:
        ValueError: in one sentence, for files or rows that cannot be used.
    """
    refuse_loss(format, loss_on)
    sources = {"train": train, "test": test} | ({} if validation is None else {"validation": validation})
    tables = {
        name: read_conversations(source, format=format, column=column, loss_on=loss_on, slices=slices)
        for name, source in sources.items()
    }
    if forget is not None:
        tables["forget"] = read_conversations(forget, format="text", loss_on="all")
    return split_sequences(tables, format=format, loss_on=loss_on, seed=seed)


def split_sequences(tables: Mapping[str, pa.Table], *, format: Format, loss_on: LossOn, seed: int) -> SequenceSplits:
    """Splits tables as `read_conversations` gives them: train, test and perhaps validation and forget."""
    files = {name: _distinct(table) for name, table in tables.items()}
    for name in [name for name in files if name != "train"]:
        refuse_shared_text(files["train"], files[name], names=("train", name))
    if "validation" in files:
        refuse_shared_text(files["validation"], files["test"], names=("validation", "test"))
    notes = [note for name in files for note in _what_was_dropped(name, tables[name], files[name])]

    rows, vectors = _numbered(files, format)
    train, seen = rows["train"], vectors["train"]
    if "validation" in rows:
        held, held_vectors = rows["validation"], vectors["validation"]
    else:
        out = _validation_rows(train, seen, seed)
        notes.append(
            f"Validation is {int(out.sum())} of {train.num_rows} train rows, in proportion to the first slice, "
            "near-twins together."
        )
        held, held_vectors = train.filter(pa.array(out)), seen[out]
        train, seen = train.filter(pa.array(~out)), seen[~out]
    twins = int(twins_across(held_vectors, seen).sum())
    if twins:
        notes.append(f"{twins} of {held.num_rows} validation rows have a near-twin in train.")
    picked = np.random.default_rng([seed, 3]).permutation(train.num_rows)[:CALIBRATION_MOST]
    nothing = pa.table({"row": pa.array([], pa.int64()), "text": pa.array([], pa.string())})
    return SequenceSplits(
        train=train,
        calibration=train.take(pa.array(np.sort(picked))),
        validation=held,
        test=rows["test"],
        forget=rows.get("forget", nothing),
        format=format,
        loss_on=loss_on,
        duplicates_dropped=sum(file.dropped for file in files.values()),
        near_twins=int(twins_across(vectors["test"], seen).sum()),
        notes=tuple(notes),
    )


def _distinct(table: pa.Table) -> Distinct:
    """Each text once, in the order of the texts' SHA-256: rows of text are rows that have no label."""
    return distinct(table.append_column("label", pa.nulls(table.num_rows, pa.string())), keep_undecided=True)


def _numbered(files: Mapping[str, Distinct], format: Format) -> tuple[dict[str, pa.Table], dict[str, np.ndarray]]:
    """Rows numbered through all files, and their sketches under one IDF."""
    said = {
        name: [plain(text, "text" if name == "forget" else format) for text in file.table["text"].to_pylist()]
        for name, file in files.items()
    }
    vectors = sketch([text for texts in said.values() for text in texts])
    tables, parts, start = {}, {}, 0
    for name, file in files.items():
        end = start + file.table.num_rows
        tables[name] = file.table.drop_columns("label").set_column(
            0, "row", pa.array(np.arange(start, end), pa.int64())
        )
        parts[name] = vectors[start:end]
        start = end
    return tables, parts


def _validation_rows(train: pa.Table, vectors: np.ndarray, seed: int) -> np.ndarray:
    if train.num_rows < TRAIN_LEAST:
        raise ValueError(
            f"train has {train.num_rows} different texts, too few to split off a validation set ({TRAIN_LEAST} are "
            "needed); add rows, or name a file in data.validation"
        )
    return hold_out(
        groups=twin_groups(vectors),
        classes=[""] * train.num_rows,
        slices=first_slice(train, np.arange(train.num_rows)),
        quota={"": min(VALIDATION_MOST, round(VALIDATION_SHARE * train.num_rows))},
        seed=seed,
    )


def _what_was_dropped(name: str, given: pa.Table, file: Distinct) -> list[str]:
    notes = [f"{count} rows with {why} were dropped in {name}." for why, count in sorted(dropped_rows(given).items())]
    return notes + (
        [f"{file.dropped} rows that repeat another row's text were dropped in {name}."] if file.dropped else []
    )

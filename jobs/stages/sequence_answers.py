"""Teacher answers for text: what a language model expects at every token that is learned, asked once, kept in Parquet.

For each target of a row, in order, the shard holds `ids` (the top k of the vocabulary, likeliest first), `log_probs`
and `tail` (the log of the mass outside the top k); both as int16 in steps of 1/1024 nat down to -32, so that a value
comes back within 1/2048 nat. `check` is the CRC-32 of the row's tokens and targets: a student whose tokenizer gives
other tokens is refused instead of learning other tokens' answers. Lists lie flat, row after row, byte planes apart
(BYTE_STREAM_SPLIT) and zstd-packed: k = 32 of SmolLM2's 49,152 takes 104 bytes a target on ChitChat.

A shard is `SHARD_ROWS` rows and one file. The answers are made in `sequence_teacher.py`.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deshi.jobs.data.render import Sequences
from deshi.jobs.stages.answers import shard_name

SHARD_ROWS = 128
TOP_K = 32
_STEPS_PER_NAT, _LEAST = 1024, -32
_LISTS = ("ids", "log_probs", "tail")


@dataclass(frozen=True, kw_only=True)
class SequenceAnswers:
    """The answers to some rows of a split, as stored; `of` gives them as numbers."""

    rows: NDArray[np.int64]  # positions in the split, ascending
    offsets: NDArray[np.int64]  # [rows + 1] into the targets
    ids: NDArray[np.uint32]  # [targets, k]; uint16 where the vocabulary allows
    log_probs: NDArray[np.int16]  # [targets, k]
    tail: NDArray[np.int16]  # [targets]
    checks: NDArray[np.uint32]  # [rows]
    vocabulary: int

    def of(self, rows: Sequence[int] | NDArray[np.int64]) -> tuple[NDArray, NDArray, NDArray]:
        """ids int64 [n, k], log-probabilities float32 [n, k] and log tail float32 [n] of the rows' targets.

        In the order of `rows` and, in a row, of its targets: that of the labels in `packing.collate` of the same rows.
        """
        at = np.searchsorted(self.rows, rows)
        assert np.array_equal(self.rows[at], rows), "rows that were not read"
        chosen = np.concatenate([np.arange(self.offsets[i], self.offsets[i + 1]) for i in at] or [np.arange(0)])
        numbers = (stored[chosen].astype(np.float32) / _STEPS_PER_NAT for stored in (self.log_probs, self.tail))
        return self.ids[chosen].astype(np.int64), *numbers

    def refuse_other_tokens(self, sequences: Sequences) -> None:
        """Refuses tokens that these answers were not given for.

        Args:
            sequences: the split's rows, from its first.

        Raises:
            ValueError: naming the first row that differs.
        """
        for row, check in zip(self.rows.tolist(), self.checks.tolist(), strict=True):
            if row >= len(sequences.input_ids) or checksum(sequences, row) != check:
                raise ValueError(
                    f"row {row} has other tokens or targets here than the teacher answered; the student's tokenizer, "
                    "chat template, loss_on and max_length must be the teacher's: take its tokenizer, or ask again"
                )


def _quantised(log_values: NDArray[np.float32]) -> NDArray[np.int16]:
    return np.rint(np.clip(log_values, _LEAST, 0) * _STEPS_PER_NAT).astype(np.int16)


def checksum(sequences: Sequences, row: int) -> int:
    """CRC-32 of a row's tokens and targets."""
    return zlib.crc32(sequences.loss_mask[row].tobytes(), zlib.crc32(sequences.input_ids[row].tobytes()))


def pack(
    split: str,
    begin: int,
    sequences: Sequences,
    *,
    ids: NDArray[np.int64],
    log_probs: NDArray[np.float32],
    tail: NDArray[np.float32],
    vocabulary: int,
) -> pa.Table:
    """A shard: the answers [targets, k] and the log tails [targets] to `sequences`, rows `begin` onwards of a split."""
    k, rows = ids.shape[1], len(sequences.input_ids)
    kind = np.uint16 if vocabulary <= 1 << 16 else np.uint32
    offsets = np.concatenate([[0], np.cumsum(sequences.learned)]).astype(np.int32)
    columns = {
        "ids": (ids.astype(kind), k),
        "log_probs": (_quantised(log_probs), k),
        "tail": (_quantised(tail), 1),
    }
    lists = {
        name: pa.ListArray.from_arrays(pa.array(offsets * width), pa.array(values.ravel()))
        for name, (values, width) in columns.items()
    }
    checks = [checksum(sequences, row) for row in range(rows)]
    table = pa.table(
        {
            "split": pa.array([split] * rows, pa.string()),
            "row": pa.array(range(begin, begin + rows), pa.int64()),
            "check": pa.array(checks, pa.uint32()),
            **lists,
        }
    )
    return table.replace_schema_metadata({"vocabulary": str(vocabulary), "k": str(k)})


def unpack(table: pa.Table) -> SequenceAnswers:
    """The inverse of `pack`, for the rows of one shard or a part of them."""
    k = int(table.schema.metadata[b"k"])
    combined = table.combine_chunks()
    flat = {name: combined[name].combine_chunks().flatten().to_numpy() for name in _LISTS}
    targets = pc.list_value_length(combined["tail"]).to_numpy()
    return SequenceAnswers(
        rows=combined["row"].to_numpy(),
        offsets=np.concatenate([[0], np.cumsum(targets)]),
        ids=flat["ids"].reshape(-1, k),
        log_probs=flat["log_probs"].reshape(-1, k),
        tail=flat["tail"],
        checks=combined["check"].to_numpy(),
        vocabulary=int(table.schema.metadata[b"vocabulary"]),
    )


def read_rank(folder: Path, split: str, rows: Sequence[int] | NDArray[np.int64]) -> SequenceAnswers:
    """The answers to a rank's rows of a split; only the shards that hold one of them are opened.

    Raises:
        ValueError: for a row that was not asked.
    """
    wanted = np.unique(np.asarray(rows, np.int64))
    if not len(wanted):
        raise ValueError(f"no row of {split} was asked for; a rank reads at least one: use fewer workers or more rows")
    parts = []
    for begin in np.unique(wanted // SHARD_ROWS * SHARD_ROWS).tolist():
        path = folder / shard_name(split, begin)
        here = wanted[(wanted >= begin) & (wanted < begin + SHARD_ROWS)] - begin
        table = pq.read_table(path) if path.is_file() else None
        if table is None or table.num_rows <= here[-1]:
            raise ValueError(
                f"row {here[0 if table is None else -1] + begin} of {split} has no teacher answer; ask more rows"
            )
        parts.append(table.take(pa.array(here)))
    return unpack(pa.concat_tables(parts))


def write_shard(table: pa.Table, path: Path) -> None:
    """Writes a shard, byte planes apart and compressed."""
    encodings = {f"{name}.list.element": "BYTE_STREAM_SPLIT" for name in _LISTS}
    pq.write_table(table, path, compression="zstd", use_dictionary=["split"], column_encoding=encodings)

"""Teacher answers: what the teacher says of every row, computed once by Ray Data, kept in Parquet, read by students.

A shard is one file of `SHARD_ROWS` rows: `split`, `row` (its position in the split), `ids` (the top-k classes),
`log_probs` (int16, steps of 1/1024 nat, down to -32) and `tail` (the mass outside the top k). An actor writes a shard
under a temporary name and moves it into place, so that a killed run goes on at the first missing file.
The test split is never asked here: it is opened once, at the end, for all models together.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from deshi.jobs.data.split import Splits
from deshi.jobs.storage import Output, Storage

SHARD_ROWS = 1024
TOP_K = 64
_STEPS_PER_NAT = 1024
ASKED = ("train", "unlabelled", "agreement", "validation")


def pack(split: str, rows: NDArray[np.int64], log_probs: NDArray[np.float32]) -> pa.Table:
    """Log-probabilities [n, k] as a table of top-k ids, quantized log-probabilities and tail mass."""
    top = min(TOP_K, log_probs.shape[1])
    ids = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
    kept = np.take_along_axis(log_probs, ids, axis=1)
    quantized = np.clip(np.rint(kept * _STEPS_PER_NAT), -32 * _STEPS_PER_NAT, 0).astype(np.int16)
    tail = np.clip(1.0 - np.exp(kept.astype(np.float64)).sum(axis=1), 0.0, 1.0)
    return pa.table(
        {
            "split": pa.array([split] * len(rows)).dictionary_encode(),
            "row": pa.array(rows),
            "ids": pa.array(list(ids.astype(np.int16)), pa.list_(pa.int16())),
            "log_probs": pa.array(list(quantized), pa.list_(pa.int16())),
            "tail": pa.array(tail.astype(np.float32)),
        }
    )


def unpack(table: pa.Table, classes: int) -> NDArray[np.float32]:
    """The inverse of `pack`: [n, classes], normalised; the tail is spread evenly over the classes left out."""
    ids = np.array(table["ids"].to_pylist(), dtype=np.int64)
    kept = np.array(table["log_probs"].to_pylist(), dtype=np.float64) / _STEPS_PER_NAT
    left_out = classes - ids.shape[1]
    tail = table["tail"].to_numpy().astype(np.float64)
    spread = np.log(np.maximum(tail, 1e-12) / left_out) if left_out else np.full(len(tail), -np.inf)
    full = np.repeat(spread[:, None], classes, axis=1)
    np.put_along_axis(full, ids, kept, axis=1)
    full -= np.logaddexp.reduce(full, axis=1, keepdims=True)
    return full.astype(np.float32)


def read(folder: Path, split: str) -> NDArray[np.float32]:
    """The answers to one split, float32 log-probabilities [rows, labels] in the split's order."""
    schema = pq.read_schema(next(iter(sorted(folder.glob("shard-*.parquet")))))
    classes = int(schema.metadata[b"classes"])
    parts = sorted(folder.glob(f"shard-{split}-*.parquet"))
    if not parts:
        return np.zeros((0, classes), dtype=np.float32)
    return unpack(pa.concat_tables([pq.read_table(part) for part in parts]), classes)


class Teacher:
    """A Ray Data actor: holds the teacher, answers one shard a call and writes its file."""

    def __init__(self, storage: Storage, teacher_key: str, splits_key: str, work: str, max_length: int, batch: int):
        import torch

        from deshi.jobs.stages.apprentice import Apprentice
        from deshi.serve.encode import Encoder

        folder = storage.fetch(teacher_key) / "model"
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = Apprentice.load(folder, None).eval().to(self._device)
        self._encoder = Encoder(folder / "tokenizer.json", max_length=max_length)
        self._splits = Splits.read(storage.fetch(splits_key))
        self._storage, self._work, self._batch = storage, work, batch

    def __call__(self, shards: dict[str, Any]) -> dict[str, Any]:
        for split, begin in zip(shards["split"].tolist(), shards["begin"].tolist(), strict=True):
            texts = self._splits.table(split)["text"].slice(begin, SHARD_ROWS).to_pylist()
            table = pack(split, np.arange(begin, begin + len(texts)), self._log_probabilities(texts))
            table = table.replace_schema_metadata({"classes": str(len(self._splits.labels))})
            with tempfile.TemporaryDirectory(prefix="deshi-shard-") as folder:
                path = Path(folder) / shard_name(split, begin)
                pq.write_table(table, path)
                target = f"{self._storage.root}/{self._work}/{path.name}"
                self._storage.upload(path, f"{target}.partial")
                self._storage.filesystem.move(f"{target}.partial", target)
        return shards

    def _log_probabilities(self, texts: list[str]) -> NDArray[np.float32]:
        import torch

        rows = self._encoder.encode(texts)
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        out = np.zeros((len(rows), len(self._splits.labels)), dtype=np.float32)
        for begin in range(0, len(order), self._batch):
            chosen = order[begin : begin + self._batch]
            batch = self._encoder.pad([rows[index] for index in chosen])
            with torch.inference_mode():
                logits, _ = self._model(
                    torch.from_numpy(batch.input_ids).to(self._device),
                    torch.from_numpy(batch.attention_mask).to(self._device),
                )
            out[chosen] = torch.log_softmax(logits.double(), dim=-1).float().cpu().numpy()
        return out


def shard_name(split: str, begin: int) -> str:
    """File name of the shard that starts at row `begin`; sorts in row order."""
    return f"shard-{split}-{begin:09d}.parquet"


def ask(
    storage: Storage,
    teacher: Output,
    splits: Output,
    *,
    max_length: int,
    replicas: int,
    batch: int,
    gpus_each: float,
    cpus_each: float,
) -> Output:
    """The stage: every row of the asked splits through the teacher, by an actor pool of Ray Data."""
    inputs = {"teacher": teacher.key, "splits": splits.key, "max_length": max_length}

    def build(out: Path) -> None:
        import ray.data

        rows = Splits.read(splits.path)
        work = f".work/{storage.key('answers', inputs)}"
        storage.filesystem.create_dir(f"{storage.root}/{work}", recursive=True)
        wanted = [(split, begin) for split in ASKED for begin in range(0, rows.table(split).num_rows, SHARD_ROWS)]
        present = {
            info.base_name for info in storage.filesystem.get_file_info(pafs.FileSelector(f"{storage.root}/{work}"))
        }
        missing = [item for item in wanted if shard_name(*item) not in present]
        if missing:
            ray.data.from_items(
                [{"split": split, "begin": begin} for split, begin in missing], override_num_blocks=len(missing)
            ).map_batches(
                Teacher,
                fn_constructor_args=(storage, teacher.key, splits.key, work, max_length, batch),
                compute=ray.data.ActorPoolStrategy(size=replicas),
                batch_size=1,
                num_cpus=cpus_each,
                num_gpus=gpus_each or None,
            ).materialize()
        for item in wanted:
            name = shard_name(*item)
            pafs.copy_files(
                f"{storage.root}/{work}/{name}", str(out / name), storage.filesystem, pafs.LocalFileSystem()
            )
        storage.filesystem.delete_dir(f"{storage.root}/{work}")

    return storage.stage("answers", inputs, build)

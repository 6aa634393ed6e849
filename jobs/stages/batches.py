"""The rows of a training step, as tensors: tokenised once, then picked by (seed, step, rank) with no iterator state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.split import Splits
from deshi.jobs.data.tokens import batch_rows, collate, rank_share, tokenise
from deshi.jobs.stages import answers
from deshi.jobs.storage import Storage


@dataclass(frozen=True, kw_only=True)
class Batches:
    """All rows a job learns from, ready to be picked.

    `tokens` are ragged ids; `labels` int64 [rows], -1 where there is none; `log_probs` float32 [rows, labels] of the
    teacher's cached answers, or None.
    """

    tokens: Any
    labels: NDArray[np.int64]
    log_probs: NDArray[np.float32] | None
    pad_id: int
    seed: int
    rows_per_step: int
    micro_batch: int

    @classmethod
    def load(cls, job: Any, storage: Storage, *, rank: int, world: int) -> Batches:
        """Reads the splits, the student's tokenizer and the answers of a `TrainJob`; the same for every rank."""
        splits = Splits.read(storage.fetch(job.splits))
        tables = [splits.table(name) for name in job.learn_from]
        texts = [text for table in tables for text in table["text"].to_pylist()]
        index = {label: number for number, label in enumerate(splits.labels)}
        labels = [index.get(label, -1) for table in tables for label in table["label"].to_pylist()]
        log_probs = None
        if job.answers:
            folder = storage.fetch(job.answers)
            log_probs = np.concatenate([answers.read(folder, name) for name in job.learn_from])
        tokens, pad_id = tokenise(storage.fetch(job.student) / "model", texts, max_length=job.max_length)
        return cls(
            tokens=tokens,
            labels=np.asarray(labels, dtype=np.int64),
            log_probs=log_probs,
            pad_id=pad_id,
            seed=job.seed,
            rows_per_step=job.micro_batch * job.accumulation * world,
            micro_batch=job.micro_batch,
        )

    @property
    def pieces(self) -> NDArray[np.int64]:
        """The ids that any batch may hold, ascending."""
        return np.unique(np.concatenate([*self.tokens, np.array([self.pad_id])]).astype(np.int64))

    def at(self, step: int, part: int, *, rank: int, world: int, device: Any) -> dict[str, Any]:
        """The micro-batch of one rank: part `part` of its share of step `step`."""
        import torch

        rows = batch_rows(step, rows=len(self.labels), batch_size=self.rows_per_step, seed=self.seed)
        mine = rank_share(rows, rank, world)[part * self.micro_batch : (part + 1) * self.micro_batch]
        batch = collate([self.tokens[row] for row in mine], pad_id=self.pad_id)
        batch["labels"] = torch.from_numpy(self.labels[mine])
        if self.log_probs is not None:
            batch["teacher_log_probs"] = torch.from_numpy(self.log_probs[mine])
        return {name: value.to(device) for name, value in batch.items()}

"""The packed rows of a training step for a language model: rendered once, then picked by (seed, step, rank).

A row of a step is a row of `packing.plan`: several sequences of train, at most `max_length` tokens. Which rows a step
takes, and which of them a rank, is `tokens.batch_rows` over the plan, as for a classifier's texts: no iterator, nothing
to save. A rank therefore knows before its first step which answers it will ever need, and reads no others.

Packed rows differ in how many targets they hold. Each micro-batch carries the `weight` by which its mean loss is to be
multiplied, so that the mean over the ranks and parts of a step is the mean over all the targets of that step:

    weight = targets here x ranks x parts / targets of the step
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.packing import collate, plan
from deshi.jobs.data.render import Sequences
from deshi.jobs.data.sequences import SequenceSplits
from deshi.jobs.data.tokens import batch_rows, rank_share
from deshi.jobs.stages.sequence_answers import SequenceAnswers, read_rank
from deshi.jobs.storage import Storage

PAD_ID = 0  # whatever it is: padding sees itself only, nothing sees it, and it is never a target


@dataclass(frozen=True, kw_only=True)
class SequenceBatches:
    """The packed rows that a job learns from. `answers` are those of this rank's rows, or None."""

    sequences: Sequences
    packed: tuple[tuple[int, ...], ...]  # rows of the plan, each the numbers of its sequences
    answers: SequenceAnswers | None
    seed: int
    rows_per_step: int
    micro_batch: int

    @classmethod
    def load(cls, job: Any, storage: Storage, *, rank: int, world: int) -> SequenceBatches:
        """Reads the splits, renders them with the student's tokenizer, packs them and reads the answers of a rank.

        Raises:
            ValueError: in one sentence, for fewer rows than a step takes, or answers to other tokens.
        """
        (split,) = job.learn_from
        sequences = SequenceSplits.read(storage.fetch(job.splits)).sequences(
            split, storage.fetch(job.student) / "model", max_length=job.max_length, end=job.rows
        )
        batches = cls(
            sequences=sequences,
            packed=packed_rows(sequences, max_length=job.max_length, packing=job.packing, seed=job.seed),
            answers=None,
            seed=job.seed,
            rows_per_step=job.micro_batch * job.accumulation * world,
            micro_batch=job.micro_batch,
        )
        batches._refuse_too_few(split, job.max_length)
        if not job.answers:
            return batches
        shares = [rank_share(batches.rows_of(step), rank, world) for step in range(job.steps)]
        needed = sorted({sequence for row in np.unique(shares) for sequence in batches.packed[row]})
        answers = read_rank(storage.fetch(job.answers), split, needed)
        answers.refuse_other_tokens(sequences)
        return SequenceBatches(**{**vars(batches), "answers": answers})

    def rows_of(self, step: int) -> NDArray[np.int64]:
        """The packed rows of a step, all ranks together, int64 [rows_per_step]."""
        return batch_rows(step, rows=len(self.packed), batch_size=self.rows_per_step, seed=self.seed)

    def at(self, step: int, part: int, *, rank: int, world: int, device: Any) -> dict[str, Any]:
        """The micro-batch of one rank: part `part` of its share of step `step`.

        `input_ids`, `position_ids` and `labels` int64 [rows, tokens] as `packing.collate` makes them, the `weight`, and
        where answers are cached, of the n targets in their order, `answer_ids` int64 and `answer_log_probs` float32
        [n, k] and `answer_tail` float32 [n].
        """
        import torch

        rows = self.rows_of(step)
        mine = rank_share(rows, rank, world)[part * self.micro_batch : (part + 1) * self.micro_batch]
        packed = [self.packed[row] for row in mine]
        batch = collate(packed, input_ids=self.sequences.input_ids, loss_mask=self.sequences.loss_mask, pad_id=PAD_ID)
        del batch["segment_ids"]  # the restarts of the positions say the same
        share = self._targets(mine) / self._targets(rows)
        batch["weight"] = torch.tensor(share * len(rows) / len(mine), dtype=torch.float32)
        if self.answers is not None:
            ids, log_probs, tail = self.answers.of([sequence for row in packed for sequence in row])
            batch["answer_ids"] = torch.from_numpy(ids)
            batch["answer_log_probs"] = torch.from_numpy(log_probs)
            batch["answer_tail"] = torch.from_numpy(tail)
        return {name: value.to(device) for name, value in batch.items()}

    def _targets(self, rows: NDArray[np.int64]) -> int:
        return int(sum(self.sequences.learned[list(self.packed[row])].sum() for row in rows))

    def _refuse_too_few(self, split: str, max_length: int) -> None:
        if len(self.packed) < self.rows_per_step:
            raise ValueError(
                f"the {len(self.sequences.learnable)} learnable rows of {split} fill {len(self.packed)} rows of "
                f"{max_length} tokens, fewer than the {self.rows_per_step} of one step; give more text, or lower "
                "batch_size or max_length"
            )


def packed_rows(sequences: Sequences, *, max_length: int, packing: bool, seed: int) -> tuple[tuple[int, ...], ...]:
    """The plan's rows, over the sequences that have something to learn."""
    learnable = sequences.learnable
    made = plan(sequences.lengths[learnable], max_length=max_length, seed=seed, packing=packing)
    return tuple(tuple(int(learnable[at]) for at in row) for row in made.rows)


def rows_needed(sequences: Sequences, *, steps: int, batch_size: int, max_length: int, packing: bool) -> int:
    """How many leading rows of a split fill all steps once, so that no others need a teacher's answer.

    A packed row holds at most `max_length` tokens, so rows with as many tokens as the steps have room for never make
    too few packed rows, and too many only by what packing leaves empty. Where the split is used up, all its rows.
    """
    wanted = steps * batch_size
    learnable = sequences.learned > 0
    if packing:
        filled, wanted = np.cumsum(np.where(learnable, sequences.lengths, 0)), wanted * max_length
    else:
        filled = np.cumsum(learnable)
    return min(int(np.searchsorted(filled, wanted)) + 1, len(filled))

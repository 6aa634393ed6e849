"""How many tokens a run computes, from a sample of its rows where they can be read, and from max_length where not.

A plan must not take as long as the run: the file's rows are counted, a random sample of them is rendered and tokenised
as training does it, and the rest is scaled. Rows that repeat others are counted too; only the run looks for them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deshi.jobs.data.conversations import read_conversations
from deshi.jobs.data.packing import plan
from deshi.jobs.data.render import render
from deshi.jobs.data.rows import read_rows
from deshi.jobs.data.tokens import MULTIPLE, tokenise
from deshi.jobs.evidence.benches.training_cost import Work
from deshi.jobs.recipe import Recipe

SAMPLE_ROWS = 256


@dataclass(frozen=True, kw_only=True)
class TokenCounts:
    """A file's rows, and of a sample of them the tokens and the targets of each, both [sample]."""

    rows: int
    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]
    max_length: int
    packing: bool

    @property
    def mean(self) -> float:
        """Tokens of a row."""
        return float(self.lengths.mean())

    @property
    def share(self) -> float:
        """Targets, of the tokens."""
        return float(self.targets.sum() / self.lengths.sum())

    @property
    def error(self) -> float:
        """Half of the mean's 95% interval."""
        return 1.96 * float(self.lengths.std()) / math.sqrt(len(self.lengths))

    @property
    def efficiency(self) -> float:
        """Real tokens, of what a packed row has room for."""
        return plan(self.lengths, max_length=self.max_length, seed=0).efficiency if self.packing else 1.0

    @property
    def rows_in_a_batch_row(self) -> float:
        """Rows of the file that one row of a batch holds."""
        return self.max_length * self.efficiency / self.mean if self.packing else 1.0

    def steps(self, steps: int, *, batch_size: int, micro_batch: int) -> Work:
        """What training computes. A packed row is full; others are padded to the longest of their micro batch."""
        rows = float(steps * batch_size)
        if self.packing:
            tokens = rows * self.max_length
            return Work(tokens=tokens, targets=tokens * self.efficiency * self.share, row_length=self.max_length)
        padded = self._padded(micro_batch)
        return Work(tokens=rows * padded, targets=rows * self.mean * self.share, row_length=padded)

    def once(self, rows: float) -> Work:
        """What one pass over `rows` rows of the file computes; unpacked, rows of like length stand together."""
        tokens = rows * self.mean
        length = self.max_length if self.packing else self.mean
        return Work(tokens=tokens / self.efficiency, targets=tokens * self.share, row_length=length)

    def _padded(self, micro_batch: int) -> float:
        """The mean of the longest of `micro_batch` rows drawn from the sample, rounded up as batches are."""
        rounded = np.sort(-(-self.lengths // MULTIPLE) * MULTIPLE)
        below = (np.arange(len(rounded) + 1) / len(rounded)) ** micro_batch  # all drawn are among the first i
        return float((rounded * np.diff(below)).sum())


def count_tokens(recipe: Recipe, source: str, folder: Path) -> TokenCounts:
    """The rows of a file of the recipe, and a sample of them under the tokenizer of a model folder.

    Raises:
        ValueError: in one sentence, for a file that cannot be used.
    """
    data = recipe.data
    if recipe.task == "classify":
        table = read_rows(source, text=data.text, label=data.label, slices=data.slices)
        ids = tokenise(folder, _sample(table, recipe.seed), max_length=data.max_length).ids
        return TokenCounts(
            rows=table.num_rows,
            lengths=np.array([len(row) for row in ids], np.int64),
            targets=np.ones(len(ids), np.int64),
            max_length=data.max_length,
            packing=False,
        )
    table = read_conversations(source, format=data.format, column=data.column, loss_on=data.learned, slices=data.slices)
    texts = _sample(table, recipe.seed)
    rendered = render(folder, texts, format=data.format, loss_on=data.learned, max_length=data.max_length)
    learnable = rendered.learnable
    if not len(learnable):
        raise ValueError(f"no sampled row of {source} has a target within {data.max_length} tokens; widen max_length")
    return TokenCounts(
        rows=round(table.num_rows * len(learnable) / len(texts)),
        lengths=rendered.lengths[learnable],
        targets=rendered.learned[learnable],
        max_length=data.max_length,
        packing=data.packing,
    )


def longest(recipe: Recipe, rows: int) -> TokenCounts:
    """Rows that nobody has seen: each as long as it may be, every token of text a target."""
    most = recipe.data.max_length
    return TokenCounts(
        rows=rows,
        lengths=np.array([most]),
        targets=np.array([most if recipe.task == "generate" else 1]),
        max_length=most,
        packing=recipe.task == "generate" and recipe.data.packing,
    )


def _sample(table: pa.Table, seed: int) -> list[str]:
    picked = np.random.default_rng([seed, 11]).permutation(table.num_rows)[:SAMPLE_ROWS]
    texts: list[str] = table["text"].take(pa.array(np.sort(picked))).to_pylist()
    return texts

"""What a model answered to the rows of a split, row by row, beside the quality that was told from it.

`test-answers.parquet` of a run folder holds these rows for every model of the comparison, so that any figure of
quality can be computed again without asking a model. It holds no text: `row` counts the rows of the split.
`written-answers.parquet` holds what language models wrote themselves, for people to judge; a classifier writes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from deshi.jobs.evidence.measure import Answers
from deshi.jobs.evidence.schema import Quality


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One model on one split.

    `rows` has a column `row` and, of a classifier, `label`, `answer`, `confidence` (probability of the answer) and
    `kl` (nats to the teacher); of a language model `tokens`, `nll`, `same_top` and `kl`, means over the row's targets.
    The teacher's own `kl` is null. `written` has `row`, `text`, `length` (tokens) and `ended` (stopped by itself).
    `told` holds a classifier's probabilities for every class, which are not kept.
    """

    quality: Quality
    rows: pa.Table
    written: pa.Table | None = None
    told: Answers | None = None


def together(answered: Mapping[str, Answered]) -> pa.Table:
    """All models' rows under each other, the model's id in the first column."""
    return _under_each_other({name: each.rows for name, each in answered.items()})


def written_together(answered: Mapping[str, Answered]) -> pa.Table | None:
    """All models' own answers under each other, the model's id in the first column; None where none writes."""
    written = {name: each.written for name, each in answered.items() if each.written is not None}
    return _under_each_other(written) if written else None


def _under_each_other(tables: Mapping[str, pa.Table]) -> pa.Table:
    return pa.concat_tables(
        rows.add_column(0, "model", pa.array([name] * rows.num_rows, pa.string())) for name, rows in tables.items()
    )

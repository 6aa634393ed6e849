"""What a model answered to the rows of a split, row by row, beside the quality that was told from it.

`test-answers.parquet` of a run folder holds these rows for every model of the comparison, so that any figure of
quality can be computed again without asking a model. It holds no text: `row` counts the rows of the split.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from deshi.jobs.evidence.schema import Quality


@dataclass(frozen=True, kw_only=True)
class Answered:
    """One model on one split.

    `rows` has a column `row` and, of a classifier, `label`, `answer`, `confidence` (probability of the answer) and
    `kl` (nats to the teacher); of a language model `tokens`, `nll`, `same_top` and `kl`, means over the row's targets.
    The teacher's own `kl` is null.
    """

    quality: Quality
    rows: pa.Table


def together(answered: Mapping[str, Answered]) -> pa.Table:
    """All models' rows under each other, the model's id in the first column."""
    return pa.concat_tables(
        each.rows.add_column(0, "model", pa.array([name] * each.rows.num_rows, pa.string()))
        for name, each in answered.items()
    )

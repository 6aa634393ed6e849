"""A lesson reads the splits of its recipe's task, and says which rows the teacher answered."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

from deshi.jobs.data.sequences import SequenceSplits, make_sequence_splits
from deshi.jobs.data.split import Splits, split_rows
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output, Storage


def test_the_task_decides_what_a_row_is(tmp_path, tiny_rows):
    storage = Storage(str(tmp_path / "runs"))
    for name, count in (("train", 40), ("test", 5)):
        lines = [json.dumps({"text": f"the {name} passage {row} speaks of bridges"}) for row in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    made = make_sequence_splits(
        train=tmp_path / "train.jsonl",
        test=tmp_path / "test.jsonl",
        format="text",
        column="text",
        loss_on="all",
        seed=0,
    )
    text = storage.stage("splits", {"of": "text"}, made.write)
    classes = storage.stage("splits", {}, split_rows(tiny_rows(120, seed=1), tiny_rows(30, seed=2), seed=0).write)

    def lesson(task: str, splits: Output) -> Lesson:
        recipe = SimpleNamespace(task=task)
        return Lesson(recipe=recipe, storage=storage, splits_key=splits.key, precision="fp32")

    writes, sorts = lesson("generate", text), lesson("classify", classes)
    assert isinstance(writes.splits, SequenceSplits) and writes.splits is writes.sequence_splits
    assert writes.splits.table("train").equals(made.train)
    assert isinstance(sorts.splits, Splits) and len(sorts.splits.labels) == 3
    with pytest.raises(AssertionError):
        _ = sorts.sequence_splits
    assert writes.rows is None
    assert writes.answered(Output(key="answers-1", storage=storage), rows=7).rows == 7

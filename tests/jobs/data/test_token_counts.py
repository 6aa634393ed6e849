"""Token counts of a plan against what the run's own batches hold."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest

from deshi.jobs.data.conversations import read_conversations
from deshi.jobs.data.packing import collate
from deshi.jobs.data.render import render
from deshi.jobs.data.token_counts import TokenCounts, count_tokens, longest
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.sequence_batches import packed_rows, rows_needed

FIXTURES = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))
MOST = 64


@pytest.fixture(scope="module")
def chat(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chat")
    FIXTURES["tiny_lm"](folder / "teacher")
    rows = [json.dumps({"messages": messages}) for messages in FIXTURES["conversations"](200)]
    (folder / "train.jsonl").write_text("\n".join(rows))
    return folder


def recipe(folder, **data):
    return Recipe.model_validate(
        {
            "name": "chat",
            "task": "generate",
            "data": {"train": str(folder / "train.jsonl"), "test": "t.jsonl", "max_length": MOST} | data,
            "teacher": {"model": str(folder / "teacher")},
            "targets": [{"name": "here", "price_per_hour": 1}],
            "kpi": {},
        }
    )


def rendered(folder):
    texts = read_conversations(folder / "train.jsonl", format="messages", loss_on="assistant")["text"].to_pylist()
    return render(folder / "teacher", texts, format="messages", loss_on="assistant", max_length=MOST)


def test_a_file_smaller_than_the_sample_is_counted_as_it_is(chat):
    counts = count_tokens(recipe(chat), str(chat / "train.jsonl"), chat / "teacher")
    whole = rendered(chat)
    learnable = whole.learnable
    assert counts.rows == len(learnable)
    assert counts.mean == whole.lengths[learnable].mean()
    assert counts.share == whole.learned.sum() / whole.lengths[learnable].sum()


def test_packed_steps_are_what_the_batches_hold(chat):
    counts = count_tokens(recipe(chat), str(chat / "train.jsonl"), chat / "teacher")
    whole = rendered(chat)
    packed = packed_rows(whole, max_length=MOST, packing=True, seed=0)
    steps = len(packed) // 4  # one epoch
    batches = [
        collate(packed[at * 4 : at * 4 + 4], input_ids=whole.input_ids, loss_mask=whole.loss_mask, pad_id=0)
        for at in range(steps)
    ]
    work = counts.steps(steps, batch_size=4, micro_batch=4)
    assert work.tokens == pytest.approx(sum(batch["input_ids"].numel() for batch in batches), rel=0.02)
    assert work.targets == pytest.approx(sum(int((batch["labels"] >= 0).sum()) for batch in batches), rel=0.05)
    assert counts.rows / counts.rows_in_a_batch_row == pytest.approx(len(packed), abs=1)
    needed = rows_needed(whole, steps=5, batch_size=4, max_length=MOST, packing=True)
    assert 20 * MOST / counts.mean == pytest.approx(needed, rel=0.1)


def test_rows_of_their_own_are_padded_to_the_longest_of_a_micro_batch(chat):
    counts = count_tokens(recipe(chat, packing=False, max_length=256), str(chat / "train.jsonl"), chat / "teacher")
    drawn = np.random.default_rng(0).choice(-(-counts.lengths // 8) * 8, (20_000, 4)).max(axis=1)
    assert drawn.mean() > 1.3 * counts.mean
    assert counts.steps(10, batch_size=8, micro_batch=4).tokens == pytest.approx(80 * drawn.mean(), rel=0.01)
    assert counts.once(50).tokens == 50 * counts.mean


def test_unread_rows_are_as_long_as_they_may_be(chat):
    assert longest(recipe(chat), 7).once(7).tokens == longest(recipe(chat), 7).once(7).targets == 7 * MOST


def test_efficiency_and_error_by_hand():
    counts = TokenCounts(rows=10, lengths=np.array([6, 4, 6]), targets=np.array([3, 1, 4]), max_length=10, packing=True)
    assert counts.efficiency == 16 / 20  # 6 + 4 fill one row, 6 stands alone in the next
    assert counts.once(3).tokens == pytest.approx(20)
    assert counts.share == 0.5
    assert counts.error == pytest.approx(1.96 * np.std([6, 4, 6]) / 3**0.5)


def test_no_targets_within_max_length_are_refused(chat):
    with pytest.raises(ValueError, match="no sampled row"):
        count_tokens(recipe(chat, max_length=8), str(chat / "train.jsonl"), chat / "teacher")

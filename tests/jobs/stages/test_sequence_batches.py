"""The packed rows of a step: each once an epoch, each rank its share, weighted by targets, beside the right answers."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from deshi.jobs.data.packing import IGNORED
from deshi.jobs.data.render import Sequences
from deshi.jobs.data.sequences import make_sequence_splits
from deshi.jobs.stages.answers import shard_name
from deshi.jobs.stages.sequence_answers import SHARD_ROWS, pack, write_shard
from deshi.jobs.stages.sequence_batches import SequenceBatches, packed_rows, rows_needed
from deshi.jobs.storage import Storage

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))
MAX_LENGTH = 192


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A storage with a student, splits of more than two shards, and answers that name each target itself."""
    folder = tmp_path_factory.mktemp("world")
    for name, count, seed in (("train", 330, 1), ("test", 10, 2)):
        lines = [json.dumps({"messages": chat}) for chat in lm["conversations"](count, seed=seed)]
        (folder / f"{name}.jsonl").write_text("\n".join(lines))
    splits = make_sequence_splits(
        train=folder / "train.jsonl", test=folder / "test.jsonl", format="messages", loss_on="assistant", seed=0
    )
    storage = Storage(str(folder / "runs"))
    student = storage.stage("student", {}, lambda out: lm["tiny_lm"](out / "model") and None)

    def answer(out):
        for begin in range(0, splits.train.num_rows, SHARD_ROWS):
            part = splits.sequences(
                "train", student.path / "model", max_length=MAX_LENGTH, begin=begin, end=begin + SHARD_ROWS
            )
            targets = np.concatenate(
                [ids[mask] for ids, mask in zip(part.input_ids, part.loss_mask, strict=True)]
            ).astype(np.int64)
            ids = np.stack([targets, (targets + 1) % 320], axis=1)
            said = np.full(ids.shape, np.log(0.4), np.float32)
            table = pack(
                "train", begin, part, ids=ids, log_probs=said, tail=np.log(1 - 2 * np.exp(said[:, 0])), vocabulary=320
            )
            write_shard(table, out / shard_name("train", begin))

    return SimpleNamespace(
        storage=storage,
        student=student,
        splits=storage.stage("splits", {}, splits.write),
        answers=storage.stage("answers", {}, answer),
        rows=splits.train.num_rows,
    )


def loaded(world, *, rank=0, ranks=1, **change):
    told = {
        "student": world.student.key,
        "splits": world.splits.key,
        "learn_from": ("train",),
        "answers": world.answers.key,
        "rows": None,
        "packing": True,
        "max_length": MAX_LENGTH,
        "seed": 3,
        "steps": 4,
        "micro_batch": 4,
        "accumulation": 1,
    }
    return SequenceBatches.load(SimpleNamespace(**(told | change)), world.storage, rank=rank, world=ranks)


def at(batches, step, part=0, *, rank=0, ranks=1):
    return batches.at(step, part, rank=rank, world=ranks, device="cpu")


def real_ids(batch):
    """The rows of a batch as tuples of their targets."""
    return sorted(tuple(row[row != IGNORED].tolist()) for row in batch["labels"])


def test_an_epoch_sees_every_packed_row_once(world):
    batches = loaded(world, answers=None, steps=1)
    assert len(batches.packed) > 40 and max(map(len, batches.packed)) > 1
    rows = np.concatenate([batches.rows_of(step) for step in range(len(batches.packed) // 4)])
    assert len(np.unique(rows)) == len(rows) and set(rows) <= set(range(len(batches.packed)))
    sequences = sorted(sequence for row in batches.packed for sequence in row)
    assert sequences == batches.sequences.learnable.tolist()


def test_ranks_and_parts_share_the_rows_of_a_step_and_their_weights_make_one_mean(world):
    whole = at(loaded(world, micro_batch=8), 2)
    shares = [
        (rank, part, at(loaded(world, micro_batch=2, accumulation=2, rank=rank, ranks=2), 2, part, rank=rank, ranks=2))
        for rank in range(2)
        for part in range(2)
    ]
    assert sorted(row for _, _, batch in shares for row in real_ids(batch)) == real_ids(whole)
    assert float(whole["weight"]) == 1
    targets = int((whole["labels"] != IGNORED).sum())
    for _, _, batch in shares:
        here = int((batch["labels"] != IGNORED).sum())
        assert float(batch["weight"]) == pytest.approx(4 * here / targets, rel=1e-6)
    assert len({float(batch["weight"]) for _, _, batch in shares}) > 1, "else a mean of means would do"


def test_each_target_stands_beside_its_own_answer(world):
    batches = loaded(world, rank=1, ranks=2, micro_batch=5, accumulation=2)
    for step in range(3):
        batch = at(batches, step, 1, rank=1, ranks=2)
        assert any(len(batches.packed[row]) > 1 for row in batches.rows_of(step)[1::2][5:])
        labels = batch["labels"][:, 1:]
        assert torch.equal(batch["answer_ids"][:, 0], labels[labels != IGNORED])
        assert batch["answer_log_probs"].dtype == torch.float32
        assert batch["answer_log_probs"].exp() == pytest.approx(0.4, abs=1e-3)
        assert batch["answer_tail"].exp() == pytest.approx(0.2, abs=1e-3)


def test_a_rank_reads_only_the_answers_it_needs(world):
    few = loaded(world, steps=1, rank=1, ranks=2)
    mine = few.rows_of(0)[1::2]
    assert few.answers.rows.tolist() == sorted(sequence for row in mine for sequence in few.packed[row])
    at(few, 0, rank=1, ranks=2)
    with pytest.raises(AssertionError, match="rows that were not read"):
        at(few, 0, rank=0, ranks=2)


def test_only_the_leading_rows_are_learned_from(world):
    some = loaded(world, rows=120)
    assert max(sequence for row in some.packed for sequence in row) <= 119
    assert len(some.sequences.input_ids) == 120


def test_the_same_question_has_the_same_rows(world):
    first, again, other = (at(loaded(world, seed=seed), 3) for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert first["input_ids"].shape != other["input_ids"].shape or not torch.equal(
        first["input_ids"], other["input_ids"]
    )


def test_too_few_rows_are_refused_before_the_answers_are_read(world):
    with pytest.raises(
        ValueError, match=r"the 30 learnable rows of train fill \d+ rows of 192 tokens, fewer than the 6"
    ):
        loaded(world, rows=30, micro_batch=64)


def test_another_students_tokens_are_refused(world):
    def other(out):
        lm["tiny_lm"](out / "model", template="{% for m in messages %}{{ m['content'] }}<|im_end|>{% endfor %}")

    student = world.storage.stage("other", {}, other)
    with pytest.raises(ValueError, match="has other tokens or targets here than the teacher answered"):
        loaded(world, student=student.key)


lengths = st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=120)


@settings(max_examples=80, deadline=None)
@given(lengths, st.integers(1, 4), st.integers(1, 4), st.booleans())
def test_the_rows_needed_fill_all_steps_and_hardly_more(made, steps, batch_size, packing):
    def leading(count):
        masks = [np.array([False] * (size - 1) + [learned]) for size, learned in made[:count]]
        return Sequences(input_ids=[np.zeros(len(mask), np.int32) for mask in masks], loss_mask=masks, cut=0)

    def rows(count):
        return len(packed_rows(leading(count), max_length=40, packing=packing, seed=0))

    asked = {"steps": steps, "batch_size": batch_size, "max_length": 40, "packing": packing}
    needed = rows_needed(leading(None), **asked)
    assert needed == len(made) or rows(needed) >= steps * batch_size
    # One fewer leaves room for what no step lacks: fewer tokens than the steps take.
    short = leading(needed - 1)
    filled = short.lengths[short.learned > 0]
    assert (filled.sum() / 40 if packing else len(filled)) < steps * batch_size

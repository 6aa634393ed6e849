"""Teacher answers for text come back as they were said, in order, in few bytes, and only to the tokens they are for."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from scipy.special import log_softmax, logsumexp

from deshi.jobs.data.conversations import canonical_messages
from deshi.jobs.data.packing import IGNORED, collate
from deshi.jobs.data.render import Sequences, render
from deshi.jobs.stages.answers import shard_name
from deshi.jobs.stages.sequence_answers import SHARD_ROWS, pack, read_rank, unpack, write_shard

HALF_STEP = 0.5 / 1024 + 1e-6
lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))


def drawn_sequences(rows, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(1, 20, rows)
    masks = [rng.random(n) < 0.5 for n in lengths]
    for mask in masks:
        mask[0] = False
    return Sequences(input_ids=[rng.integers(0, 999, n).astype(np.int32) for n in lengths], loss_mask=masks, cut=0)


def drawn_answers(targets, vocabulary, k, seed=0):
    """Top-k of real distributions, in float64 by scipy."""
    said = log_softmax(np.random.default_rng(seed).normal(0, 4, (targets, vocabulary)), axis=1)
    ids = np.argsort(-said, axis=1, kind="stable")[:, :k]
    top = np.take_along_axis(said, ids, 1)
    left = np.sort(-said, axis=1)[:, k:]
    return ids, top, logsumexp(-left, axis=1) if left.shape[1] else np.full(targets, -np.inf)


def shard(split, begin, sequences, *, vocabulary=500, k=8, seed=0):
    ids, top, tail = drawn_answers(int(sequences.learned.sum()), vocabulary, k, seed)
    return pack(split, begin, sequences, ids=ids, log_probs=top, tail=tail, vocabulary=vocabulary), ids, top, tail


@pytest.mark.parametrize(("vocabulary", "kind"), [(500, np.uint16), (65536, np.uint16), (65537, np.uint32)])
def test_answers_survive_the_file(tmp_path, vocabulary, kind):
    sequences = drawn_sequences(12)
    table, ids, top, tail = shard("train", 0, sequences, vocabulary=vocabulary)
    write_shard(table, tmp_path / "a.parquet")
    back = unpack(pq.read_table(tmp_path / "a.parquet"))
    assert back.ids.dtype == kind and back.vocabulary == vocabulary
    got_ids, got_top, got_tail = back.of(range(12))
    assert np.array_equal(got_ids, ids)
    assert np.abs(got_top - top).max() < HALF_STEP and np.abs(got_tail - tail).max() < HALF_STEP
    assert np.exp(got_top).sum(1) + np.exp(got_tail) == pytest.approx(1, abs=1e-3)


def test_no_tail_is_a_tail_of_next_to_nothing():
    sequences = drawn_sequences(3)
    table, *_ = shard("train", 0, sequences, vocabulary=6, k=6)
    assert (unpack(table).of(range(3))[2] == -32).all()


def test_a_rank_reads_its_rows_and_opens_only_their_shards(tmp_path):
    sequences = drawn_sequences(3 * SHARD_ROWS - 5)
    begins = np.concatenate([[0], np.cumsum(sequences.learned)])
    said = {}
    for begin in range(0, len(sequences.input_ids), SHARD_ROWS):
        rows = slice(begin, begin + SHARD_ROWS)
        part = Sequences(input_ids=sequences.input_ids[rows], loss_mask=sequences.loss_mask[rows], cut=0)
        table, ids, *_ = shard("train", begin, part, seed=begin)
        write_shard(table, tmp_path / shard_name("train", begin))
        said |= {
            begin + at: ids[begins[begin + at] - begins[begin] :][: part.learned[at]] for at in range(len(part.lengths))
        }
    (tmp_path / shard_name("train", SHARD_ROWS)).write_bytes(b"not to be opened")
    mine = [2 * SHARD_ROWS + 3, 0, 5, 2 * SHARD_ROWS, 127]
    read = read_rank(tmp_path, "train", mine)
    for order in (mine, mine[::-1], mine[1:3]):
        assert np.array_equal(read.of(order)[0], np.concatenate([said[row] for row in order]))
    read.refuse_other_tokens(sequences)
    sequences.input_ids[5][0] += 1
    with pytest.raises(ValueError, match="row 5 has other tokens or targets here than the teacher answered"):
        read.refuse_other_tokens(sequences)
    for row in (len(sequences.input_ids), 3 * SHARD_ROWS):
        with pytest.raises(ValueError, match=f"row {row} of train has no teacher answer"):
            read_rank(tmp_path, "train", [row])


def test_the_order_is_that_of_the_packed_labels(tmp_path):
    folder = lm["tiny_lm"](tmp_path, layers=1)
    texts = [canonical_messages(chat) for chat in lm["conversations"](6)]
    sequences = render(folder, texts, format="messages", loss_on="assistant", max_length=128)
    # Each target's answer is the target itself.
    ids = np.concatenate([ids[mask] for ids, mask in zip(sequences.input_ids, sequences.loss_mask, strict=True)])
    nothing = np.zeros((len(ids), 1), np.float32)
    table = pack("train", 0, sequences, ids=ids[:, None], log_probs=nothing, tail=nothing[:, 0], vocabulary=320)
    packed = [[4, 1], [0], [5, 2, 3]]
    batch = collate(packed, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=2)
    labels = batch["labels"][:, 1:]
    got = unpack(table).of([row for rows in packed for row in rows])[0][:, 0]
    assert torch.equal(labels[labels != IGNORED], torch.from_numpy(got))

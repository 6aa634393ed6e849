"""Packed sequences fill rows well and are computed as if each stood alone."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from deshi.jobs.data.conversations import canonical_messages
from deshi.jobs.data.packing import IGNORED, collate, plan, refuse_leak
from deshi.jobs.data.render import render

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return lm["tiny_lm"](tmp_path_factory.mktemp("lm"))


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def sequences(folder):
    texts = [canonical_messages(messages) for messages in lm["conversations"](30)]
    return render(folder, texts, format="messages", loss_on="assistant", max_length=128)


def first_fit(sizes, capacity):
    """The textbook's loop: how full the rows are, in order."""
    rows = []
    for size in sorted(sizes, reverse=True):
        at = next((at for at, used in enumerate(rows) if used + size <= capacity), None)
        if at is None:
            rows.append(size)
        else:
            rows[at] += size
    return rows


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 40), max_size=80), st.integers(0, 3))
def test_the_plan_is_first_fit_decreasing(sizes, seed):
    made = plan(sizes, max_length=40, seed=seed)
    assert sorted(sequence for row in made.rows for sequence in row) == list(range(len(sizes)))
    filled = sorted(sum(sizes[sequence] for sequence in row) for row in made.rows)
    assert filled == sorted(first_fit(sizes, 40))
    assert made.efficiency == pytest.approx(sum(sizes) / (40 * len(made.rows)) if sizes else 0)
    assert made == plan(sizes, max_length=40, seed=seed)


def test_the_seed_and_nothing_else_changes_the_order():
    sizes = np.random.default_rng(0).integers(5, 60, 500)
    assert plan(sizes, max_length=64, seed=1).rows != plan(sizes, max_length=64, seed=2).rows
    alone = plan(sizes, max_length=64, seed=1, packing=False)
    assert sorted(alone.rows) == [(at,) for at in range(500)]
    longest = [max(sizes[list(row)]) for row in plan(sizes, max_length=64, seed=1).rows]
    assert abs(np.corrcoef(longest, range(len(longest)))[0, 1]) < 0.2  # rows are not sorted by length
    with pytest.raises(ValueError, match="sequence 1 has 65 tokens, a row holds 64"):
        plan([3, 65], max_length=64, seed=0)


def losses(model, batch):
    """Cross-entropy of each target, in the order of rows and positions."""
    logits = model(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).logits
    labels = batch["labels"][:, 1:]
    each = functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels.flatten(), reduction="none")
    return each[labels.flatten() != IGNORED]


def test_the_loss_of_each_token_is_that_of_its_sequence_alone(model, sequences):
    made = plan(sequences.lengths, max_length=128, seed=0)
    assert max(len(row) for row in made.rows) > 1
    batch = collate(made.rows, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=2)
    alone = []
    for sequence in (sequence for row in made.rows for sequence in row):
        ids = torch.from_numpy(sequences.input_ids[sequence].astype(np.int64))[None]
        targets = torch.from_numpy(np.flatnonzero(sequences.loss_mask[sequence]))
        logits = model(ids).logits[0]
        alone.append(functional.cross_entropy(logits[targets - 1], ids[0, targets], reduction="none"))
    with torch.inference_mode():
        packed = losses(model, batch)
    assert len(packed) == sequences.learned.sum()
    assert (packed - torch.cat(alone)).abs().max() < 1e-5
    one_row = batch | {"position_ids": torch.arange(batch["input_ids"].shape[1]).expand_as(batch["input_ids"])}
    assert (losses(model, one_row) - torch.cat(alone)).abs().max() > 0.1  # the comparison can fail


def test_gradients_agree_too(model, sequences):
    made = plan(sequences.lengths, max_length=128, seed=0)
    alone = plan(sequences.lengths, max_length=128, seed=0, packing=False)
    grads = []
    for rows in (made.rows, alone.rows):
        model.zero_grad()
        batch = collate(rows, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=2)
        losses(model, batch).mean().backward()
        grads.append(torch.cat([parameter.grad.flatten() for parameter in model.parameters()]))
    assert torch.isfinite(grads[0]).all()
    assert (grads[0] - grads[1]).abs().max() < 1e-5 * grads[1].abs().max() + 1e-7


def test_segments_and_labels_stand_where_they_should(sequences):
    batch = collate([[3, 1], [0]], input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=2)
    first = len(sequences.input_ids[3])
    assert batch["input_ids"].shape[1] % 8 == 0
    assert batch["segment_ids"][0, first - 1] == 0 and batch["segment_ids"][0, first] == 1
    assert batch["position_ids"][0, first] == 0
    assert batch["labels"][0, :first][sequences.loss_mask[3]].tolist() == (
        sequences.input_ids[3][sequences.loss_mask[3]].tolist()
    )
    assert (batch["labels"][batch["segment_ids"] == -1] == IGNORED).all()


class Leaky(LlamaForCausalLM):
    """An architecture that counts positions by itself and so never sees where a sequence begins."""

    def forward(self, input_ids=None, position_ids=None, **options):
        return super().forward(input_ids=input_ids, **options)


def test_a_model_whose_sequences_read_each_other_is_refused(folder, model):
    refuse_leak(model)
    refuse_leak(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16))
    with pytest.raises(ValueError, match="packed sequences read each other in the architecture 'llama'"):
        refuse_leak(Leaky.from_pretrained(folder))

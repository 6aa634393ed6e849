"""Scores at the targets against the whole softmax in float64, one sequence by itself and one token at a time."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from scipy.stats import entropy
from transformers import AutoModelForCausalLM

from deshi.jobs.data.render import Sequences, render
from deshi.jobs.evidence.text import text_scores
from deshi.jobs.evidence.text.text_scores import (
    Head,
    TeacherStates,
    cached_scores,
    scores,
    target_states,
    teacher_scores,
    teacher_states,
)
from deshi.jobs.stages.sequence_answers import pack, unpack
from deshi.jobs.stages.sequence_teacher import answer

lm = runpy.run_path(str(Path(__file__).parents[2] / "lm_fixtures.py"))
PADDED = 352
SETTINGS = {"max_length": 96}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """(sequences with a row that has no target, student, teacher that is like it and has 32 padded rows)."""
    folder = lm["tiny_lm"](tmp_path_factory.mktemp("student"), layers=2, seed=1)
    texts = [json.dumps(chat) for chat in lm["conversations"](24, seed=3)]
    sequences = render(folder, texts, format="messages", loss_on="assistant", max_length=96)
    sequences.loss_mask[5][:] = False
    student = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.manual_seed(7)
    config = type(student.config)(**student.config.to_dict() | {"vocab_size": PADDED})
    teacher = type(student)(config).eval()
    with torch.no_grad():
        for own, its in zip(teacher.parameters(), student.parameters(), strict=True):
            own[: len(its)] = its + 0.02 * torch.randn_like(its)
    with torch.no_grad():
        teacher.get_output_embeddings().weight[320:] += 1  # padded rows that would take mass if they counted
    return sequences, student, teacher


def by_hand(model, sequences: Sequences, vocabulary: int) -> np.ndarray:
    """log-softmax in float64 over the first `vocabulary` rows at every target, each sequence by itself."""
    model = model.double()
    told = []
    for ids, mask in zip(sequences.input_ids, sequences.loss_mask, strict=True):
        with torch.inference_mode():
            logits = model(torch.from_numpy(ids.astype(np.int64))[None]).logits[0].numpy()
        told.append(log_softmax(logits[np.flatnonzero(mask) - 1, :vocabulary], axis=1))
    model.float()
    return np.concatenate(told)


def labels_of(sequences: Sequences) -> np.ndarray:
    return np.concatenate([ids[mask] for ids, mask in zip(sequences.input_ids, sequences.loss_mask, strict=True)])


@pytest.fixture(scope="module")
def hand(world):
    sequences, student, teacher = world
    return by_hand(student, sequences, 320), by_hand(teacher, sequences, 320)


@pytest.mark.parametrize(("packing", "chunk", "vocabulary"), [(True, 7, 320), (False, 512, 320), (True, 512, None)])
def test_scores_are_those_of_the_whole_softmax(world, hand, packing, chunk, vocabulary, monkeypatch):
    monkeypatch.setattr(text_scores, "LOGIT_TOKENS", chunk)
    sequences, student, teacher = world
    log_q, log_p = hand
    states = teacher_states(teacher, sequences, vocabulary=vocabulary, packing=packing, batch_rows=3, **SETTINGS)
    told = scores(student, sequences, teacher=states, packing=packing, batch_rows=2, **SETTINGS)
    labels = labels_of(sequences)
    at = np.arange(len(labels))
    assert np.abs(told.nll + log_q[at, labels]).max() < 1e-4
    assert np.abs(told.kl - entropy(np.exp(log_p), np.exp(log_q), axis=1)).max() < 1e-4
    assert np.array_equal(told.same_top, log_p.argmax(1) == log_q.argmax(1))
    assert 0 < told.same_top.mean() < 1
    assert told.row.tolist() == [row for row, n in enumerate(sequences.learned) for _ in range(n)]
    assert 5 not in told.row
    if vocabulary is not None:
        taught = teacher_scores(states, sequences)
        assert np.abs(taught.nll + log_p[at, labels]).max() < 1e-4 and taught.kl is None


def test_a_model_without_a_teacher_is_scored_over_its_own_head(world):
    sequences, _, teacher = world
    log_p = by_hand(teacher, sequences, PADDED)
    told = scores(teacher, sequences, teacher=None, **SETTINGS)
    labels = labels_of(sequences)
    assert np.abs(told.nll + log_p[np.arange(len(labels)), labels]).max() < 1e-4
    assert told.kl is None and told.same_top is None


def test_a_model_does_not_differ_from_itself(world):
    sequences, student, _ = world
    told = scores(student, sequences, teacher=teacher_states(student, sequences, **SETTINGS), **SETTINGS)
    assert told.same_top.all() and told.kl.min() >= 0 and told.kl.max() < 1e-5


def test_no_more_logits_than_stated_exist(world, monkeypatch):
    sequences, student, _ = world
    n = int(sequences.learned.sum())
    narrow = Head(weight=torch.randn(320, 48), bias=torch.randn(320))
    teacher = TeacherStates(states=torch.randn(n, 48), head=narrow)
    seen = []
    plain = Head.logits
    monkeypatch.setattr(text_scores, "LOGIT_TOKENS", 16)
    monkeypatch.setattr(Head, "logits", lambda head, some: seen.append(some.shape) or plain(head, some))
    told = scores(student, sequences, teacher=teacher, **SETTINGS)
    assert max(rows for rows, _ in seen) == 16
    assert {width: sum(rows for rows, of in seen if of == width) for width in (64, 48)} == {64: n, 48: n}
    log_p = log_softmax((teacher.states @ narrow.weight.T + narrow.bias).double().numpy(), axis=1)
    log_q = by_hand(student, sequences, 320)
    assert np.abs(told.kl - entropy(np.exp(log_p), np.exp(log_q), axis=1)).max() < 1e-3


@pytest.fixture(scope="module")
def answers(world):
    """Cached answers of the teacher to the rows 3 to 19 with k = 8, and with k = the vocabulary."""
    sequences, _, teacher = world
    some = Sequences(input_ids=sequences.input_ids[3:20], loss_mask=sequences.loss_mask[3:20], cut=0)

    def asked(k: int):
        made = answer(teacher, some, top_k=k, vocabulary=320, max_length=96, batch_rows=2, packing=True, pad_id=0)
        told = dict(zip(("ids", "log_probs", "tail"), made, strict=True))
        return unpack(pack("validation", 3, some, vocabulary=320, **told))

    return {k: asked(k) for k in (8, 320)}


@pytest.mark.parametrize("packing", [True, False])
def test_cached_answers_give_the_divergence_of_the_listed_and_the_rest(world, hand, answers, packing):
    sequences, student, _ = world
    row = np.repeat(np.arange(24), sequences.learned)
    here = (row >= 3) & (row < 20)
    log_q, log_p = (each[here] for each in hand)
    order = np.argsort(-log_p, axis=1)
    p, q = (np.take_along_axis(np.exp(each), order, 1) for each in (log_p, log_q))
    p, q = (np.concatenate([each[:, :8], each[:, 8:].sum(1, keepdims=True)], axis=1) for each in (p, q))
    told = cached_scores(student, sequences, answers[8], packing=packing, **SETTINGS)
    assert np.array_equal(told.row, row[here])
    assert np.abs(told.kl - entropy(p, q, axis=1)).max() < 0.01  # stored within 1/2048 nat
    assert np.abs(told.nll + log_q[np.arange(len(log_q)), labels_of(sequences)[here]]).max() < 1e-4
    assert np.array_equal(told.same_top, log_p.argmax(1) == log_q.argmax(1))
    whole = entropy(np.exp(log_p), np.exp(log_q), axis=1)
    assert (told.kl < whole + 0.01).all() and told.kl.mean() < 0.95 * whole.mean()
    everything = cached_scores(student, sequences, answers[320], packing=packing, **SETTINGS)
    assert np.abs(everything.kl - whole).max() < 0.01


def test_bad_input_is_refused(world, answers):
    sequences, student, teacher = world
    fewer = Sequences(input_ids=sequences.input_ids[:3], loss_mask=sequences.loss_mask[:3], cut=0)
    states = teacher_states(teacher, fewer, vocabulary=320, **SETTINGS)
    with pytest.raises(ValueError, match="give both the same sequences"):
        scores(student, sequences, teacher=states, **SETTINGS)
    with pytest.raises(ValueError, match=r"vocabulary 352 must lie in 1\.\.320"):
        teacher_states(student, fewer, vocabulary=PADDED, **SETTINGS)
    other = Sequences(input_ids=[ids + 1 for ids in sequences.input_ids], loss_mask=sequences.loss_mask, cut=0)
    with pytest.raises(ValueError, match="row 3 has other tokens"):
        cached_scores(student, other, answers[8], **SETTINGS)


def test_a_broken_model_is_refused(world):
    sequences, _, teacher = world
    broken = type(teacher)(teacher.config).eval()
    weight = teacher.get_input_embeddings().weight.detach().clone()
    weight[sequences.input_ids[2][10]] = torch.nan
    broken.get_decoder().embed_tokens = torch.nn.Embedding.from_pretrained(weight)
    with pytest.raises(ValueError, match="not finite"):
        scores(broken, sequences, teacher=None, packing=False, **SETTINGS)


def test_rows_without_a_target_give_nothing(world):
    sequences, student, _ = world
    none = Sequences(input_ids=sequences.input_ids[5:6], loss_mask=sequences.loss_mask[5:6], cut=0)
    assert target_states(student, none, **SETTINGS).shape == (0, 64)
    assert scores(student, none, teacher=None, **SETTINGS).nll.shape == (0,)

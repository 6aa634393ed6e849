"""Integrated gradients against their axiom, a formula by hand and themselves; words against their tokens."""

from __future__ import annotations

import shutil
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import torch
from scipy.stats import rankdata
from torch import nn
from transformers import AutoTokenizer

from deshi.jobs.evidence.risk import explanations as module
from deshi.jobs.evidence.risk.explanations import (
    ROWS,
    TOKENS,
    Explained,
    _centred,
    agreement,
    explain,
    explanations,
    open_model,
    picked,
    untrained,
)
from deshi.jobs.stages.prune import load_classifier
from deshi.jobs.stages.vocabulary import prune_vocabulary
from deshi.jobs.storage import Storage
from deshi.serve.texts import recorded


@pytest.fixture(scope="module")
def teacher(tiny_model, tiny_rows, tmp_path_factory) -> tuple:
    folder = tmp_path_factory.mktemp("explained") / "model"
    tiny_model(folder, labels=3, layers=2)
    return folder, tiny_rows(6, seed=3)["text"].to_pylist()


def opened(folder) -> Explained:
    return open_model(folder, load_classifier, max_length=64)


def test_attributions_sum_to_what_they_explain(teacher):
    folder, texts = teacher
    model = opened(folder)
    for target, text in enumerate(texts[:3]):
        ids, baseline = model._tokens(text)
        special = (ids < 5).numpy()[0] & (ids != 1).numpy()[0]
        assert (baseline == ids)[0].tolist() == special.tolist() and (baseline[0][~special] == 0).all()
        with torch.no_grad():
            change = (_centred(model.model, ids) - _centred_from(model, ids, baseline))[0, target]
        told = model.token_attributions(text, target, steps=64)
        assert told.sum() == pytest.approx(float(change), abs=1e-3)
        assert not told[special].any()
        words = model.word_attributions(text, target, steps=64)
        assert np.nansum(words) == pytest.approx(told.sum(), abs=1e-6)


def _centred_from(model: Explained, ids, baseline):
    """The baseline as it is explained: its word embeddings in the places of the text."""
    embeddings = model.model.get_input_embeddings()(baseline)
    logits = model.model(inputs_embeds=embeddings, attention_mask=torch.ones_like(ids)).logits
    return logits - logits.mean(dim=-1, keepdim=True)


def test_steps_in_several_passes_are_the_same_steps(teacher, monkeypatch):
    folder, texts = teacher
    model = opened(folder)
    at_once = model.token_attributions(texts[0], 0, steps=6)
    passes = []
    model.model.register_forward_pre_hook(
        lambda _, args, given: passes.append(len(given["input_ids"])), with_kwargs=True
    )
    monkeypatch.setattr(module, "PASS_TOKENS", 2 * len(at_once) + 1)
    assert model.token_attributions(texts[0], 0, steps=6) == pytest.approx(at_once, abs=1e-6)
    assert max(passes) == 2


class Linear(nn.Module):
    """Logits that are linear in the embeddings, so that every attribution is weight x (embedding - baseline)."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.words, self.head = nn.Embedding(vocabulary, 3), nn.Linear(3, 2, bias=False)
        self.requires_grad_(False)

    def get_input_embeddings(self) -> nn.Embedding:
        return self.words

    def forward(self, input_ids, attention_mask):
        return SimpleNamespace(logits=self.head(self.words(input_ids)).sum(dim=1))


def test_a_linear_model_by_hand(teacher):
    folder, texts = teacher
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = Explained(model=Linear(len(tokenizer)), tokenizer=tokenizer, max_length=64)
    ids, baseline = model._tokens(texts[0])
    table, head = model.model.words.weight.numpy(), model.model.head.weight.numpy()
    weight = head[1] - head.mean(axis=0)
    expected = (table[ids[0]] - table[baseline[0]]) @ weight
    assert model.token_attributions(texts[0], 1, steps=5) == pytest.approx(expected, abs=1e-5)


def test_a_student_that_is_the_teacher_agrees_and_random_ones_do_not(teacher):
    folder, texts = teacher

    def random(seed):
        return lambda: open_model(folder, lambda path: untrained(path, seed=seed), max_length=64)

    others = {"same": lambda: opened(folder)} | {f"random {seed}": random(seed) for seed in range(1, 5)}
    told = explain(opened(folder), others, texts, steps=6)
    assert told.pop("same") == pytest.approx([1.0] * len(texts))
    assert abs(np.mean([value for values in told.values() for value in values])) < 0.25
    assert len({tuple(values) for values in told.values()}) == 4  # four seeds, four models


def test_a_smaller_vocabulary_is_compared_word_by_word(teacher, tmp_path):
    folder, texts = teacher
    prune_vocabulary(folder, tmp_path / "pruned", [*texts, "who wrote"])
    told = explain(opened(folder), {"pruned": lambda: opened(tmp_path / "pruned")}, texts, steps=6)
    ids = [opened(path)._tokens(texts[0])[0].tolist() for path in (folder, tmp_path / "pruned")]
    assert ids[0] != ids[1]
    assert told["pruned"] == pytest.approx([1.0] * len(texts))


def test_a_text_that_is_cut_is_compared_as_far_as_it_is_read(teacher):
    folder, texts = teacher
    short = open_model(folder, load_classifier, max_length=8)
    words = short.word_attributions(texts[0], 0, steps=4)
    assert np.isfinite(words[:4]).all() and np.isnan(words[-1])


def test_agreement_is_pearsons_correlation_of_ranks():
    rng = np.random.default_rng(0)
    one, other = rng.normal(size=9), rng.normal(size=9)
    other[2] = np.nan
    kept = np.arange(9) != 2
    expected = np.corrcoef(rankdata(one[kept]), rankdata(other[kept]))[0, 1]
    assert agreement(one, other) == pytest.approx(expected)
    assert agreement(one, -one) == pytest.approx(-1)
    assert agreement(one[:3], other[:3]) is None and agreement(one, np.ones(9)) is None


def test_which_texts_are_explained():
    texts = ["one two three four five"] * 200 + ["too short"] * 50
    some = picked(texts, [7] * 250, seed=1)
    assert len(some) == ROWS and max(some) < 200 and some == picked(texts, [7] * 250, seed=1)
    assert some != picked(texts, [7] * 250, seed=2)
    assert len(picked(texts, [TOKENS // 5] * 250, seed=1)) == 5
    assert len(picked(texts, [2 * TOKENS] * 250, seed=1)) == 1


def test_the_figures_are_kept_and_told_again_without_a_model(teacher, tmp_path):
    folder, texts = teacher
    storage = Storage(str(tmp_path))
    made = storage.stage("given", {"model": "tiny"}, lambda out: shutil.copytree(folder, out / "model"))
    lesson = SimpleNamespace(
        recipe=SimpleNamespace(
            seed=1,
            data=SimpleNamespace(max_length=64),
            kpi=SimpleNamespace(quality=SimpleNamespace(confidence=0.95)),
        ),
        storage=storage,
        teacher_key=made.key,
        teacher=made.path / "model",
        splits_key="splits-0",
        splits=SimpleNamespace(table=lambda name: pa.table({"text": texts[:3]})),
    )
    found = explanations(lesson, made, reseeded=None, load=load_classifier)
    assert (found.agreement.value, found.agreement.n, found.agreement.unit) == (pytest.approx(1), 3, "correlation")
    assert found.floor.value < 0.9 and found.ceiling is None
    for figure in (found.agreement, found.floor):
        assert recorded(figure.how, "ja") != figure.how

    def fails(folder):
        raise AssertionError("asked again")

    assert explanations(lesson, made, reseeded=None, load=fails) == found
    reseeded = explanations(lesson, made, reseeded=made, load=load_classifier)
    assert reseeded.ceiling.value == pytest.approx(1)

"""Which rows are rare, by counts done by hand, and what rounding changes among them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest

from deshi.jobs.evidence.risk import rare_words
from deshi.jobs.evidence.risk.rare_words import commonness, divergence, rarest


def test_commonness_is_the_mean_log_count():
    seen = ["the cat the dog", "The bird", "東京の駅"]
    told = commonness(["the cat", "unseen THE", "?", "東京 駅"], seen)
    expected = [(math.log(4) + math.log(2)) / 2, (0 + math.log(4)) / 2, 0, math.log(2)]
    assert told == pytest.approx(expected)


def test_the_rarest_quarter():
    assert rarest(np.array([3.0, 1, 2, 1, 5, 6, 7, 8])).tolist() == [False, True, False, True] + [False] * 4
    assert rarest(np.array([2.0, 1.0])).sum() == 1


def lesson(test: list[str]) -> SimpleNamespace:
    tables = {"test": test, "train": ["common word"] * 9, "unlabelled": ["common"]}
    splits = SimpleNamespace(labels=("a", "b"), table=lambda name: pa.table({"text": tables[name]}))
    kpi = SimpleNamespace(quality=SimpleNamespace(confidence=0.95))
    target = SimpleNamespace(threads=1)
    return SimpleNamespace(splits=splits, recipe=SimpleNamespace(kpi=kpi, targets=(target,)))


def winner(scheme: str) -> SimpleNamespace:
    candidate = SimpleNamespace(scheme=scheme, family="transformer")
    return SimpleNamespace(candidate=candidate, finalist=SimpleNamespace(model=SimpleNamespace(key="student")))


def test_answers_that_differ_are_counted_apart(monkeypatch):
    asked = lesson(["common word"] * 6 + ["zebra quagga", "okapi common"])
    predicted = SimpleNamespace(predictions=np.array([0, 0, 0, 1, 1, 1, 1, 1]))
    monkeypatch.setattr(rare_words.builds, "export", lambda lesson, model, names: SimpleNamespace(path=model.key))
    monkeypatch.setattr(rare_words.measure, "classifier", lambda *args, **threads: None)
    monkeypatch.setattr(rare_words.measure, "answers", lambda *args: predicted)
    told = divergence(asked, winner("w8a8"), ["a", "b", "a", "b", "b", "b", "a", "b"])
    assert (told.rare.value, told.rare.n) == (0.5, 2)
    assert (told.common.value, told.common.n) == (pytest.approx(1 / 6), 6)
    assert told.rare.low < 0.5 < told.rare.high
    assert "w8a8" in told.rare.how


def test_what_rounds_nothing_has_nothing_to_tell():
    assert divergence(lesson(["a b"] * 8), winner("fp32"), ["a"] * 8) is None

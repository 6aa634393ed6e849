"""Scores against scikit-learn, with absent and never predicted classes."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
from sklearn import metrics

from deshi.jobs.evidence.scores import SCORES

SKLEARN = {
    "accuracy": metrics.accuracy_score,
    "balanced_accuracy": metrics.balanced_accuracy_score,
    "macro_f1": lambda labels, predictions: metrics.f1_score(labels, predictions, average="macro", zero_division=0),
}


@pytest.mark.parametrize("name", SCORES)
@pytest.mark.parametrize(("classes", "used"), [(2, 2), (6, 6), (50, 50), (10, 4)])
@pytest.mark.parametrize("rows", [1, 7, 500])
def test_scores_are_those_of_scikit_learn(name, classes, used, rows):
    rng = np.random.default_rng(rows + classes)
    skew = rng.dirichlet(np.full(used, 0.3))
    labels = rng.choice(used, size=rows, p=skew)
    predictions = np.where(rng.random(rows) < 0.3, rng.integers(0, used, rows), labels)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = SKLEARN[name](labels, predictions)
    assert SCORES[name](labels, predictions, classes) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("name", SCORES)
def test_an_answer_that_is_no_class_is_wrong_for_its_label_and_blames_no_other(name):
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 4, 200)
    predictions = np.where(rng.random(200) < 0.2, 4, np.where(rng.random(200) < 0.3, rng.integers(0, 4, 200), labels))
    expected = {
        "accuracy": float(np.mean(labels == predictions)),
        "balanced_accuracy": metrics.recall_score(labels, predictions, labels=range(4), average="macro"),
        "macro_f1": metrics.f1_score(labels, predictions, labels=range(4), average="macro"),
    }
    assert SCORES[name](labels, predictions, 4) == pytest.approx(expected[name], abs=1e-12)


def test_balanced_accuracy_sees_what_accuracy_hides():
    labels = np.array([0] * 99 + [1])
    always_zero = np.zeros(100, dtype=int)
    assert SCORES["accuracy"](labels, always_zero, 2) == pytest.approx(0.99)
    assert SCORES["balanced_accuracy"](labels, always_zero, 2) == pytest.approx(0.5)


@pytest.mark.parametrize("name", SCORES)
def test_bad_rows_are_refused(name):
    with pytest.raises(ValueError, match="class 4 is outside"):
        SCORES[name](np.array([0, 1]), np.array([0, 4]), 3)
    with pytest.raises(ValueError, match="class 3 is outside"):
        SCORES[name](np.array([0, 3]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="class -1 is outside"):
        SCORES[name](np.array([0, -1]), np.array([0, 1]), 3)
    with pytest.raises(ValueError, match="equal length"):
        SCORES[name](np.array([0, 1]), np.array([0]), 3)
    with pytest.raises(ValueError, match="above 0"):
        SCORES[name](np.array([], dtype=int), np.array([], dtype=int), 3)


def test_a_score_joins_by_one_row(monkeypatch):
    def worst_recall(labels, predictions, classes):
        return min(float(np.mean(predictions[labels == c] == c)) for c in set(labels.tolist()))

    monkeypatch.setitem(SCORES, "worst_recall", worst_recall)
    labels, predictions = np.array([0, 0, 1, 1]), np.array([0, 0, 1, 0])
    assert {name: fn(labels, predictions, 2) for name, fn in SCORES.items()}["worst_recall"] == 0.5

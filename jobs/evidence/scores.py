"""Scores of a classifier: 0 to 1, higher is better, from labels and predictions as class numbers [n].

Each is `fn(labels, predictions, classes)`, computed from the confusion matrix in one `bincount`, since the
paired bootstrap asks for each score thousands of times. They agree with scikit-learn's of the same name, down
to which classes are averaged: those that occur. A prediction may also be `classes`, an answer that is none of them:
wrong for its label, and to the charge of no other class.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Score = Callable[[NDArray[Any], NDArray[Any], int], float]


def accuracy(labels: NDArray[Any], predictions: NDArray[Any], classes: int) -> float:
    """Share of rows whose prediction is the label."""
    matrix = _confusion(labels, predictions, classes)
    return float(np.trace(matrix) / matrix.sum())


def balanced_accuracy(labels: NDArray[Any], predictions: NDArray[Any], classes: int) -> float:
    """Mean recall over the classes that occur among the labels; a rare one weighs as much as any."""
    matrix = _confusion(labels, predictions, classes)
    rows = matrix.sum(axis=1)
    occurs = rows > 0
    return float(np.mean(np.diag(matrix)[occurs] / rows[occurs]))


def macro_f1(labels: NDArray[Any], predictions: NDArray[Any], classes: int) -> float:
    """Mean of F1 = 2 TP / (labelled so + predicted so) over the classes that occur in either."""
    matrix = _confusion(labels, predictions, classes)
    either = matrix.sum(axis=1) + matrix.sum(axis=0)[:classes]
    occurs = either > 0
    return float(np.mean(2 * np.diag(matrix)[occurs] / either[occurs]))


# A score joins by one row; `kpi.quality.score` in the recipe names it.
SCORES: dict[str, Score] = {
    "accuracy": accuracy,
    "balanced_accuracy": balanced_accuracy,
    "macro_f1": macro_f1,
}


def _confusion(labels: NDArray[Any], predictions: NDArray[Any], classes: int) -> NDArray[np.int64]:
    """Counts [label, prediction]; the last of `classes + 1` columns is of answers that are no class."""
    if labels.shape != predictions.shape or labels.ndim != 1 or labels.size == 0:
        raise ValueError(
            f"labels {labels.shape} and predictions {predictions.shape} must be of equal length above 0; "
            "give one prediction for each label"
        )
    pairs = np.stack([labels, predictions])
    if pairs.min() < 0 or pairs[0].max() >= classes or pairs[1].max() > classes:
        wrong = int(pairs.min() if pairs.min() < 0 else pairs.max())
        raise ValueError(f"class {wrong} is outside 0..{classes - 1}; count the classes from 0")
    columns = classes + 1
    return np.bincount(pairs[0] * columns + pairs[1], minlength=classes * columns).reshape(classes, columns)

"""The classifier: order, temperature, sub-batches, the engine of each shape class, and what it must not import."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from scipy.special import log_softmax

from deshi.serve.classifier import CALL_TOKENS, MAX_ROWS, MAX_TOKENS, Classifier, sub_batches
from deshi.serve.serving import SHAPE_CLASSES, Serving

TEXTS = ["who", "where where when", "when who", "", "who who who who where", "nothing"]


class Sums:
    """Logits [sum of the ids, number of tokens, 0] of each row: they tell rows apart and padding from text."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, int]] = []

    def logits(self, batch):
        self.shapes.append(batch.input_ids.shape)
        count = batch.attention_mask.sum(1)
        total = (batch.input_ids * batch.attention_mask).sum(1)
        return np.stack([total, count, 0 * count], axis=1).astype(np.float32)


class Words:
    """An encoder that gives as many tokens as there are words."""

    def encode(self, texts):
        return [[len(word) for word in text.split()] for text in texts]

    def pad(self, rows):
        from deshi.serve.encode import Encoder

        self.pad_id = 7
        return Encoder.pad(self, rows)


def test_the_answer_is_the_log_softmax_in_the_callers_order():
    rng = np.random.default_rng(0)
    texts = [" ".join("x" * int(size) for size in rng.integers(1, 5, int(rng.integers(1, 90)))) for _ in range(300)]
    engine = Sums()
    classifier = Classifier(Words(), dict.fromkeys(SHAPE_CLASSES, engine), ["a", "b", "c"], temperature=20.0)
    rows = [[len(word) for word in text.split()] for text in texts]
    expected = log_softmax(np.array([[sum(row), len(row), 0] for row in rows]) / 20.0, axis=1)
    actual = classifier.log_probabilities(texts)
    assert actual.dtype == np.float32
    np.testing.assert_allclose(actual, expected, atol=1e-5)
    np.testing.assert_allclose(np.exp(actual).sum(1), 1.0, atol=1e-5)
    assert max(rows for rows, _ in engine.shapes) <= MAX_ROWS
    assert classifier.log_probabilities([]).shape == (0, 3)


def test_each_shape_class_goes_to_its_engine():
    engines = {name: Sums() for name in SHAPE_CLASSES}
    classifier = Classifier(Words(), engines, ["a", "b", "c"])
    classifier.log_probabilities(["x " * 100] * 20 + ["x " * 5] * 20)
    classifier.log_probabilities(["x " * 100])
    classifier.log_probabilities(["x"])
    shapes = {name: engine.shapes for name, engine in engines.items()}
    assert shapes == {"1x16": [(1, 1)], "1x128": [(1, 100)], "32x16": [(20, 5)], "32x128": [(20, 100)]}
    with pytest.raises(ValueError, match="shape class '32x128' has no engine"):
        Classifier(Words(), {name: Sums() for name in list(SHAPE_CLASSES)[:3]}, ["a", "b"])


def test_sub_batches_hold_each_row_once_within_the_limits():
    lengths = np.random.default_rng(1).integers(1, 512, 2000).tolist()
    batches = list(sub_batches(lengths))
    assert sorted(index for batch in batches for index in batch) == list(range(2000))
    for batch in batches:
        own = [lengths[index] for index in batch]
        assert sum(max(own) - length for length in own) <= CALL_TOKENS
        assert len(batch) <= MAX_ROWS and len(batch) * max(own) <= MAX_TOKENS
    assert list(sub_batches([9, 9, 9, 300])) == [[0, 1, 2], [3]]
    assert list(sub_batches([MAX_TOKENS + 1] * 2)) == [[0], [1]]  # longer than the limit, but it must run
    assert list(sub_batches([])) == []


def test_a_candidate_folder_answers(tiny):
    """The fixture's logits are 4 times the share of each known word."""
    classifier = Classifier.load(tiny)
    share = np.array([[1, 0, 0], [0, 2 / 3, 1 / 3], [1 / 2, 0, 1 / 2], [0, 0, 0], [4 / 5, 1 / 5, 0], [0, 0, 0]])
    np.testing.assert_allclose(classifier.log_probabilities(TEXTS), log_softmax(4 * share, axis=1), atol=1e-5)
    assert classifier.labels == Serving.read(tiny).labels


def test_load_refuses_what_is_not_there(tiny):
    with pytest.raises(ValueError, match="target 'moon' is not in this release; use one of"):
        Classifier.load(tiny, "moon")
    with pytest.raises(ValueError, match="build 'onnxruntime-w8a8' is not in"):
        Classifier.load(tiny, build="onnxruntime-w8a8")


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino", "static"])
def test_serving_imports_no_torch(tiny, runtime):
    code = f"""
import sys
from pathlib import Path
from deshi.serve.classifier import Classifier
from deshi.serve.engines.table import ENGINES
Classifier.load(Path({str(tiny)!r})).log_probabilities(["who"])
try:
    ENGINES[{runtime!r}].open(Path("nowhere"), threads=1)
except Exception:
    pass
if {runtime!r} != "static":
    assert {runtime!r} in sys.modules
heavy = {{"torch", "transformers", "ray", "pyarrow", "pandas"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stderr

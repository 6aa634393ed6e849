"""Measured as served: a candidate's answers, its speed, size and memory, all through the classes that will serve it.

Latency depends on shape, scheme and engine, not on weights: each combination is measured once, beside the teacher's
fp32 build in the same window, and kept as a finished output that later trials and runs look up.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence.felt.latency import LatencyRow, interleaved
from deshi.jobs.session import describe_machine
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.serve.classifier import Classifier
from deshi.serve.encode import Encoder
from deshi.serve.engines.engine import Engine, engine_of
from deshi.serve.engines.table import ENGINES
from deshi.serve.serving import ENGINES_FOLDER, MODEL_FOLDER, SHAPE_CLASSES

YARDSTICK = "onnxruntime-fp32"  # the teacher's build that everything is timed beside


@dataclass(frozen=True, kw_only=True)
class Answers:
    """What a model says of some labelled rows: log-probabilities [n, k] after temperature, labels [n] int."""

    log_probs: NDArray[np.float32]
    labels: NDArray[np.int64]

    @property
    def predictions(self) -> NDArray[np.int64]:
        """The most likely class of each row."""
        return self.log_probs.argmax(axis=1)


def open_builds(folder: Path, builds: Sequence[str], *, threads: int) -> dict[str, Engine]:
    """Engines of a served folder, by build id."""
    return {name: ENGINES[engine_of(name)].open(folder / ENGINES_FOLDER / name, threads=threads) for name in builds}


def classifier(folder: Path, lesson: Lesson, builds: Mapping[str, str], *, threads: int) -> Classifier:
    """The classifier that would serve `folder` with these builds by shape class; temperature 1."""
    opened = open_builds(folder, sorted(set(builds.values())), threads=threads)
    encoder = Encoder(folder / MODEL_FOLDER / "tokenizer.json", max_length=lesson.recipe.data.max_length)
    return Classifier(encoder, {shape: opened[name] for shape, name in builds.items()}, lesson.splits.labels)


def everywhere(build: str) -> dict[str, str]:
    """One build for every shape class."""
    return dict.fromkeys(SHAPE_CLASSES, build)


def answers(model: Classifier, table: pa.Table, labels: Sequence[str], *, temperature: float = 1.0) -> Answers:
    """Runs a split through a classifier. Unlabelled rows have label -1."""
    index = {label: number for number, label in enumerate(labels)}
    scores = model.log_probabilities(table["text"].to_pylist()).astype(np.float64) / temperature
    scores -= np.logaddexp.reduce(scores, axis=1, keepdims=True)
    truth = np.array([index.get(label, -1) for label in table["label"].to_pylist()], dtype=np.int64)
    return Answers(log_probs=scores.astype(np.float32), labels=truth)


def latency(
    lesson: Lesson,
    served: Output,
    yardstick: Output,
    *,
    builds: Sequence[str],
    threads: int,
    shapes: Mapping[str, tuple[int, int]] = SHAPE_CLASSES,
) -> list[LatencyRow]:
    """Milliseconds a call of each build at each shape, beside the teacher's fp32 build; looked up if it was taken."""
    facts = describe(served.path / "model")
    # A class that is longer than the texts may be stands for the longest there are; positions may end there too.
    longest = lesson.recipe.data.max_length
    shapes = {name: (rows, min(tokens, longest)) for name, (rows, tokens) in shapes.items()}
    inputs: dict[str, Any] = {
        "shape": asdict(facts),
        "builds": sorted(builds),
        "threads": threads,
        "shapes": {name: list(shape) for name, shape in shapes.items()},
        "confidence": lesson.recipe.kpi.quality.confidence,
        "cpu": describe_machine()["cpu"],
        "runtimes": {name: version(name) for name in ("onnxruntime", "openvino", "torch")},
    }

    def build(out: Path) -> None:
        engines = open_builds(served.path, builds, threads=threads)
        engines["teacher"] = open_builds(yardstick.path, [YARDSTICK], threads=threads)[YARDSTICK]
        smaller = min(facts.vocabulary, describe(yardstick.path / "model").vocabulary)
        rows = interleaved(
            engines,
            shapes,
            reference="teacher",
            vocabulary=smaller,
            min_seconds=0.4,
            confidence=inputs["confidence"],
            seed=lesson.recipe.seed,
        )
        (out / "latency.json").write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")

    told = lesson.storage.stage("latency", inputs, build)
    return [LatencyRow(**row) for row in json.loads((told.path / "latency.json").read_text(encoding="utf-8"))]

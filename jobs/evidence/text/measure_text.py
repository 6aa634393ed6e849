"""Measured as served, for a language model: its speed through the engine, its likelihoods on the weights of its file.

llama.cpp tells no likelihood of a prompt, so what a build says of held-out text is computed in PyTorch on the weights
as the GGUF file holds them, dequantized (`exporters/gguf_weights.py`); a test holds both to the same perplexity.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.data.model_folder import describe
from deshi.jobs.data.render import Sequences
from deshi.jobs.data.sequences import SequenceSplits
from deshi.jobs.evidence.felt.decode_speed import interleaved_decode
from deshi.jobs.evidence.felt.latency import LatencyRow
from deshi.jobs.session import describe_machine
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.prune_schedule import shape_of
from deshi.jobs.storage import Output
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.llamacpp import MODEL_FILE
from deshi.serve.serving import ANY_SHAPE, ENGINES_FOLDER, MODEL_FOLDER

YARDSTICK = "llamacpp-f16"  # the teacher's build that everything is timed beside
ONE_REQUEST = {ANY_SHAPE: (128, 32)}  # tokens of the prompt, tokens of the answer


def weights_of(folder: Path, build: str) -> Any:
    """The PyTorch model of a served folder's build, with the weights as the build rounds them."""
    from deshi.jobs.exporters.gguf_weights import dequantized
    from deshi.jobs.stages.prune_lm import load_language_model

    if engine_of(build) == "llamacpp":
        return placed(dequantized(folder / MODEL_FOLDER, folder / ENGINES_FOLDER / build / MODEL_FILE))
    if (folder / ENGINES_FOLDER / build / "config.json").is_file():  # integers, by whichever engine they are run
        from transformers import AutoModelForCausalLM

        from deshi.serve.engines.triton_model import open_model

        return open_model(folder / ENGINES_FOLDER / build, AutoModelForCausalLM)  # rounds activations as it serves
    return placed(load_language_model(folder / MODEL_FOLDER))


def placed(model: Any) -> Any:
    """The model on the GPU, where there is one."""
    import torch

    return model.to("cuda") if torch.cuda.is_available() else model


def latency(
    lesson: Lesson,
    served: Output,
    yardstick: Output,
    *,
    builds: Sequence[str],
    threads: int,
    shapes: Mapping[str, tuple[int, int]] = ONE_REQUEST,
) -> list[LatencyRow]:
    """Milliseconds of one request of each build, beside the teacher's f16 build; looked up if it was taken.

    `shapes` are tokens of the prompt and of the answer, cut to what the context holds.
    """
    from transformers import AutoConfig

    most = lesson.recipe.data.max_length
    fitting = {name: fit(prompt, answer, most) for name, (prompt, answer) in shapes.items()}
    facts = describe(served.path / MODEL_FOLDER)
    inputs: dict[str, Any] = {
        "shape": asdict(shape_of(AutoConfig.from_pretrained(served.path / MODEL_FOLDER, trust_remote_code=False))),
        "vocabulary": facts.vocabulary,
        "yardstick": yardstick.key,
        "builds": sorted(builds),
        "threads": threads,
        "shapes": {name: list(shape) for name, shape in fitting.items()},
        "confidence": lesson.recipe.kpi.quality.confidence,
        "cpu": describe_machine()["cpu"],
        "runtimes": {name: version(name) for name in ("xllamacpp", "torch")},
    }

    def build(out: Path) -> None:
        engines = {name: served.path / ENGINES_FOLDER / name for name in builds}
        engines["teacher"] = yardstick.path / ENGINES_FOLDER / YARDSTICK
        rows = [
            replace(row, shape=name)
            for name, (prompt, answer) in fitting.items()
            for row in interleaved_decode(
                engines,
                prompt_tokens=prompt,
                answer_tokens=answer,
                threads=threads,
                reference="teacher",
                vocabulary=min(facts.vocabulary, describe(yardstick.path / MODEL_FOLDER).vocabulary),
                confidence=inputs["confidence"],
                seed=lesson.recipe.seed,
            )
        ]
        (out / "latency.json").write_text(json.dumps([asdict(row) for row in rows]), encoding="utf-8")

    told = lesson.storage.stage("decode", inputs, build)
    return [LatencyRow(**row) for row in json.loads((told.path / "latency.json").read_text(encoding="utf-8"))]


def fit(prompt: int, answer: int, most: int) -> tuple[int, int]:
    """Prompt and answer within a context of `most` tokens, the answer first."""
    answer = max(2, min(answer, most // 2))
    return max(1, min(prompt, most - answer)), answer


def typical(lesson: Lesson) -> tuple[int, int]:
    """Tokens of the prompt and of the last answer: medians over the validation rows."""
    sequences = leading(lesson, "validation")
    prompts, answers = [], []
    for mask in sequences.loss_mask:
        learned = np.flatnonzero(mask)
        if not len(learned):
            continue
        gaps = np.flatnonzero(np.diff(learned) > 1)
        begin = int(learned[gaps[-1] + 1] if len(gaps) else learned[0])
        # Where all of a text is learned, its first half stands for the prompt, as in `choices.parted`.
        begin = max(begin, len(mask) // 2) if len(learned) >= len(mask) - 1 else begin
        prompts.append(begin)
        answers.append(int(learned[-1]) + 1 - begin)
    return fit(round(float(np.median(prompts))), round(float(np.median(answers))), lesson.recipe.data.max_length)


def leading(lesson: Lesson, split: str) -> Sequences:
    """The tokens of the leading rows of a split, as many as the recipe has scored; they are a random sample of it."""
    resources = lesson.recipe.resources
    tokens = resources.validation_tokens if split == "validation" else resources.test_tokens
    if split == "forget" and tokens is not None:  # what is forgotten shows in less text than what is to be proven
        tokens = max(1, tokens // 2)
    splits = lesson.storage.fetch(lesson.splits_key)
    return _leading(splits, lesson.teacher, split, lesson.recipe.data.max_length, tokens)


@lru_cache(maxsize=4)
def _leading(splits: Path, teacher: Path, split: str, max_length: int, tokens: int | None) -> Sequences:
    # Every model of a comparison is asked the same rows, and finished outputs never change.
    return SequenceSplits.read(splits).leading(split, teacher, max_length=max_length, tokens=tokens)

"""Do teacher and student give the same reasons? Agreement of word attributions on the same texts and the same class.

    attribution of an embedding dimension = (x - x') x mean over a from 0 to 1 of d f(x' + a (x - x')) / dx

Integrated gradients (Sundararajan et al. 2017, arXiv 1703.01365) by `captum`, over the word embeddings [tokens, width]
and summed to a token. `f` is the logit of the teacher's class minus the mean of all logits: what a softmax sees does
not change when all logits do, and neither should a reason. The baseline x' is the same text with padding for every
token but the special ones. A token's attribution goes to the words of the text that its characters lie in, so that
models with different vocabularies are compared word by word, and the sum stays f(x) - f(x').

Agreement is the mean over texts of Spearman's rank correlation of the words' attributions, as in Adebayo et al. (2018,
arXiv 1810.03292), whose control is the floor here: the student's architecture with random weights. The ceiling is a
second teacher that differs by its seed alone: two models that learned the same also differ in their reasons.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.risk.risk_schema import Explanations
from deshi.jobs.evidence.risk.words import word_spans
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output
from deshi.serve.statistics import mean_interval

ROWS, STEPS = 64, 32
TOKENS = 4096  # of all texts together: of long ones there are fewer than `ROWS`
PASS_TOKENS = 2048  # of one forward and backward pass, all its steps together: bounds the memory
WORDS_LEAST = 4  # a rank correlation of fewer words says little
BESIDE = {
    "agreement": "teacher and student",
    "ceiling": "two teachers that differ by their seed",
    "floor": "the teacher and an untrained student",
}

Words = NDArray[np.float64]  # an attribution by word; NaN where the model does not read that far


@dataclass(frozen=True, kw_only=True)
class Explained:
    """A classifier with its tokenizer, both as stock transformers loads them."""

    model: Any
    tokenizer: Any
    max_length: int

    def predicted(self, text: str) -> int:
        """The class that the model finds likeliest."""
        import torch

        with torch.inference_mode():
            return int(_centred(self.model, self._tokens(text)[0]).argmax())

    def word_attributions(self, text: str, target: int, *, steps: int = STEPS) -> Words:
        """Of the class `target`, by word of `word_spans(text)`."""
        tokens, weights = self.token_attributions(text, target, steps=steps), self._weights(text)
        found = tokens @ weights
        found[weights.sum(axis=0) == 0] = np.nan
        return found

    def token_attributions(self, text: str, target: int, *, steps: int = STEPS) -> Words:
        """The same by token; they sum to f(text) - f(baseline)."""
        from captum.attr import LayerIntegratedGradients

        ids, baseline = self._tokens(text)
        method = LayerIntegratedGradients(lambda rows: _centred(self.model, rows), self.model.get_input_embeddings())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # captum's, that it hooks a layer
            by_dimension = method.attribute(
                ids,
                baselines=baseline,
                target=target,
                n_steps=steps,
                internal_batch_size=max(1, PASS_TOKENS // ids.shape[1]),
            )
        summed: Words = by_dimension.detach().sum(dim=-1)[0].double().cpu().numpy()
        return summed

    def _tokens(self, text: str) -> tuple[Any, Any]:
        """Ids [1, tokens], and those of the baseline."""
        told = self._encoded(text)
        special = told["special_tokens_mask"].bool()
        pad = self.tokenizer.pad_token_id
        return told["input_ids"], told["input_ids"].where(special, 0 if pad is None else pad)

    def _weights(self, text: str) -> Words:
        """[tokens, words]: the share of a token's characters that lie in a word."""
        told, spans = self._encoded(text), word_spans(text)
        weights = np.zeros((told["input_ids"].shape[1], len(spans)))
        for token, (start, end) in enumerate(told["offset_mapping"][0].tolist()):
            for word, (first, last) in enumerate(spans):
                weights[token, word] = max(0, min(end, last) - max(start, first))
        inside = weights.sum(axis=1, keepdims=True)
        return weights / np.where(inside > 0, inside, 1)

    def _encoded(self, text: str) -> Mapping[str, Any]:
        told: Mapping[str, Any] = self.tokenizer(
            text,
            truncation=True,
            max_length=self.max_length,
            return_offsets_mapping=True,
            return_special_tokens_mask=True,
            return_tensors="pt",
        )
        return told


def _centred(model: Any, ids: Any) -> Any:
    import torch

    logits = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
    return logits - logits.mean(dim=-1, keepdim=True)


def agreement(one: Words, other: Words) -> float | None:
    """Spearman's rank correlation of the words that both read; None of fewer than `WORDS_LEAST`, or if all are alike.

    -1 is the opposite order, 1 the same.
    """
    from scipy.stats import spearmanr

    both = np.isfinite(one) & np.isfinite(other)
    if both.sum() < WORDS_LEAST or np.ptp(one[both]) == 0 or np.ptp(other[both]) == 0:
        return None
    return float(spearmanr(one[both], other[both]).statistic)


def picked(texts: Sequence[str], lengths: Sequence[int], *, seed: int) -> list[int]:
    """Which texts are explained: drawn by the seed, until there are `ROWS` of them or `TOKENS` tokens."""
    chosen: list[int] = []
    tokens = 0
    for row in np.random.default_rng([seed, 11]).permutation(len(texts)).tolist():
        if len(word_spans(texts[row])) < WORDS_LEAST:
            continue
        if len(chosen) == ROWS or (chosen and tokens + lengths[row] > TOKENS):
            break
        chosen.append(row)
        tokens += lengths[row]
    return sorted(chosen)


def open_model(folder: Path, load: Callable[[Path], Any], *, max_length: int) -> Explained:
    """A model folder; nothing of it is trained, so only the embeddings' gradient is computed."""
    from transformers import AutoTokenizer

    model = load(folder).requires_grad_(False)
    return Explained(model=model, tokenizer=AutoTokenizer.from_pretrained(folder), max_length=max_length)


def untrained(folder: Path, *, seed: int) -> Any:
    """A model of the folder's config with random weights."""
    import torch
    from transformers import AutoConfig, AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        return AutoModelForSequenceClassification.from_config(config, trust_remote_code=False).float().eval()


def explain(
    teacher: Explained, others: Mapping[str, Callable[[], Explained]], texts: Sequence[str], *, steps: int = STEPS
) -> dict[str, list[float | None]]:
    """The agreement of each other model with the teacher, text by text; one of them is open at a time."""
    classes = [teacher.predicted(text) for text in texts]
    pairs = list(zip(texts, classes, strict=True))
    reasons = [teacher.word_attributions(text, target, steps=steps) for text, target in pairs]
    told = {}
    for name, opened in others.items():
        model = opened()
        told[name] = [
            agreement(reason, model.word_attributions(text, target, steps=steps))
            for reason, (text, target) in zip(reasons, pairs, strict=True)
        ]
    return told


def explanations(
    lesson: Lesson, student: Output, *, reseeded: Output | None, load: Callable[[Path], Any]
) -> Explanations | None:
    """Of teacher and student on test rows; kept as a finished output. None where no text has words enough."""
    max_length, seed = lesson.recipe.data.max_length, lesson.recipe.seed
    inputs = {
        "teacher": lesson.teacher_key,
        "student": student.key,
        "reseeded": None if reseeded is None else reseeded.key,
        "splits": lesson.splits_key,
        "max_length": max_length,
        "seed": seed,
    }

    def build(out: Path) -> None:
        teacher = open_model(lesson.teacher, load, max_length=max_length)
        texts: list[str] = lesson.splits.table("test")["text"].to_pylist()
        lengths = [len(ids) for ids in teacher.tokenizer(texts, truncation=True, max_length=max_length)["input_ids"]]
        rows = picked(texts, lengths, seed=seed)
        folder = student.path / "model"
        others = {
            "agreement": lambda: open_model(folder, load, max_length=max_length),
            "floor": lambda: open_model(folder, lambda path: untrained(path, seed=seed), max_length=max_length),
        }
        if reseeded is not None:
            others["ceiling"] = lambda: open_model(reseeded.path / "model", load, max_length=max_length)
        told = explain(teacher, others, [texts[row] for row in rows])
        (out / "explained.json").write_text(json.dumps({"row": rows, **told}), encoding="utf-8")

    kept = lesson.storage.stage("explained", inputs, build).path / "explained.json"
    told = json.loads(kept.read_text(encoding="utf-8"))
    figures = {name: _figure(lesson, name, told[name]) for name in BESIDE if name in told}
    if figures["agreement"] is None:
        return None
    return Explanations(agreement=figures["agreement"], ceiling=figures.get("ceiling"), floor=figures["floor"])


def _figure(lesson: Lesson, name: str, told: Sequence[float | None]) -> Figure | None:
    values = [value for value in told if value is not None]
    if not values:
        return None
    found = mean_interval(values, confidence=lesson.recipe.kpi.quality.confidence, seed=lesson.recipe.seed)
    how = (
        f"mean Spearman correlation of word attributions ({STEPS} steps of integrated gradients), {BESIDE[name]}, "
        f"bootstrap over test rows"
    )
    return figure_of(found, "correlation", how)

"""A language model's quality by name, for `schema.Quality`: from what it was asked to figures with intervals.

| name | unit | what |
|---|---|---|
| perplexity, perplexity_ratio | perplexity, ratio | exp(mean nll) a target of the test rows, and over the teacher's |
| kl_mean, kl_p99, kl_p999 | nats | KL(teacher over model) a target, whole vocabulary |
| same_top | share | targets at which both find the same token likeliest |
| forget_perplexity, forget_perplexity_ratio | perplexity, ratio | the same on text of another domain |
| choice_accuracy, choice_flips | share | of items: the true answer was chosen; another option than the teacher's was |
| repetition | share | of the written answers' 4-grams: occurred before in the same answer |
| length_ratio | ratio | tokens of the written answers over those of the teacher's own |

What was not asked has no figure, and the teacher itself has none of those that compare with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.evidence.figure import Figure, figure_of
from deshi.jobs.evidence.text.choices import Item
from deshi.jobs.evidence.text.text_scores import TokenScores
from deshi.jobs.evidence.text.text_statistics import (
    kl_mean,
    kl_quantiles,
    perplexity,
    perplexity_ratio,
    ratio_interval,
    same_top,
    share_interval,
)
from deshi.jobs.evidence.text.written_answers import ANSWER_TOKENS, WrittenAnswer, repeated
from deshi.serve.statistics import proportion_interval

QUANTILES = {"kl_p99": 0.99, "kl_p999": 0.999}


@dataclass(frozen=True, kw_only=True)
class Asked:
    """All that one model was asked."""

    test: TokenScores  # held-out rows
    forget: TokenScores | None = None  # text of another domain
    chosen: NDArray[np.int64] | None = None  # [items]
    written: Sequence[WrittenAnswer] = ()


def text_quality(
    model: Asked, teacher: Asked | None, items: Sequence[Item], *, confidence: float, seed: int
) -> dict[str, Figure]:
    """Every figure that can be told, by name; `teacher` is None for the teacher itself.

    Raises:
        ValueError: if the two were asked for different tokens, items or prompts.
    """
    figures = _likelihood(
        "", "a target of the test rows", model.test, teacher.test if teacher else None, confidence, seed
    )
    if model.forget is not None and len(model.forget.row):
        what = "a token of text of another domain"
        figures |= _likelihood("forget_", what, model.forget, teacher.forget if teacher else None, confidence, seed)
    if teacher is not None and model.test.kl is not None:
        figures |= _divergence(model.test, confidence, seed)
    if model.chosen is not None and items:
        figures |= _choices(model.chosen, teacher.chosen if teacher else None, items, confidence)
    if model.written:
        figures |= _writing(model.written, teacher.written if teacher else (), confidence, seed)
    return figures


def _likelihood(
    prefix: str, what: str, told: TokenScores, taught: TokenScores | None, confidence: float, seed: int
) -> dict[str, Figure]:
    own = perplexity(told, confidence=confidence, seed=seed)
    figures = {f"{prefix}perplexity": figure_of(own, "perplexity", f"exp(mean nll) {what}, bootstrap over rows")}
    if taught is not None:
        ratio = perplexity_ratio(told, taught, confidence=confidence, seed=seed)
        how = f"exp(mean nll minus the teacher's) {what}, bootstrap over rows"
        figures[f"{prefix}perplexity_ratio"] = figure_of(ratio, "ratio", how)
    return figures


def _divergence(told: TokenScores, confidence: float, seed: int) -> dict[str, Figure]:
    what = "KL(teacher || model) a target of the test rows, whole vocabulary, bootstrap over rows"
    mean = kl_mean(told, confidence=confidence, seed=seed)
    quantiles = kl_quantiles(told, tuple(QUANTILES.values()), confidence=confidence, seed=seed)
    share = same_top(told, confidence=confidence, seed=seed)
    return {
        "kl_mean": figure_of(mean, "nats", f"mean {what}"),
        **{
            name: figure_of(found, "nats", f"{QUANTILES[name]:g} quantile of {what}")
            for name, found in zip(QUANTILES, quantiles, strict=True)
        },
        "same_top": figure_of(share, "share", "same likeliest token as the teacher at a target, bootstrap over rows"),
    }


def _choices(
    chosen: NDArray[np.int64], taught: NDArray[np.int64] | None, items: Sequence[Item], confidence: float
) -> dict[str, Figure]:
    for whose, choice in (("model", chosen), ("teacher", taught)):
        if choice is not None and len(choice) != len(items):
            raise ValueError(f"the {whose} chose for {len(choice)} of {len(items)} items; give it the same items")
    hits = int(np.sum(chosen == np.array([item.right for item in items])))
    right = proportion_interval(hits, len(items), confidence=confidence)
    figures = {
        "choice_accuracy": figure_of(right, "share", "the row's own answer chosen among four, by mean nll, Wilson")
    }
    if taught is not None:
        flips = proportion_interval(int(np.sum(chosen != taught)), len(items), confidence=confidence)
        figures["choice_flips"] = figure_of(
            flips, "share", "items on which teacher and model choose differently, Wilson"
        )
    return figures


def _writing(
    written: Sequence[WrittenAnswer], taught: Sequence[WrittenAnswer], confidence: float, seed: int
) -> dict[str, Figure]:
    figures = {}
    again, grams = np.array([repeated(answer.tokens) for answer in written]).T
    where = f"of greedy answers of at most {ANSWER_TOKENS} tokens, bootstrap over prompts"
    if grams.sum():
        share = share_interval(again, grams, confidence=confidence, seed=seed)
        figures["repetition"] = figure_of(share, "share", f"4-grams that occurred before in the answer, {where}")
    if taught:
        if [answer.row for answer in written] != [answer.row for answer in taught]:
            raise ValueError(
                f"the model answered {len(written)} prompts and the teacher {len(taught)}, or other ones; "
                "ask both with the same context"
            )
        lengths = ([answer.length for answer in several] for several in (written, taught))
        ratio = ratio_interval(*lengths, confidence=confidence, seed=seed)
        figures["length_ratio"] = figure_of(ratio, "ratio", f"tokens over those of the teacher's, {where}")
    return figures

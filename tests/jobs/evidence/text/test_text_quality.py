"""Every figure by its name, from numbers small enough to count."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deshi.jobs.evidence.text.choices import Item, Prompt
from deshi.jobs.evidence.text.text_quality import Asked, text_quality
from deshi.jobs.evidence.text.text_scores import TokenScores
from deshi.jobs.evidence.text.written_answers import WrittenAnswer

SURE = {"confidence": 0.95, "seed": 0}
ROWS = np.repeat(np.arange(30), 20)
ITEMS = [Item(row=row, prompt=Prompt(text="p"), options=("a", "b", "c", "d"), right=row % 4) for row in range(20)]
UNITS = {
    "perplexity": "perplexity",
    "perplexity_ratio": "ratio",
    "kl_mean": "nats",
    "kl_p99": "nats",
    "kl_p999": "nats",
    "same_top": "share",
    "forget_perplexity": "perplexity",
    "forget_perplexity_ratio": "ratio",
    "choice_accuracy": "share",
    "choice_flips": "share",
    "repetition": "share",
    "length_ratio": "ratio",
}


def asked(*, nll: float, wrong: int, length: int, tokens: tuple[int, ...], compared: bool) -> Asked:
    rng = np.random.default_rng(0)
    spread = rng.random(600).astype(np.float32)
    return Asked(
        test=TokenScores(
            row=ROWS,
            nll=spread + np.float32(nll),
            kl=np.arange(600, dtype=np.float32) if compared else None,
            same_top=np.arange(600) % 4 > 0 if compared else None,
        ),
        forget=TokenScores(row=ROWS[:100], nll=spread[:100] + np.float32(2 * nll)),
        chosen=np.array([(item.right + (number < wrong)) % 4 for number, item in enumerate(ITEMS)]),
        written=[WrittenAnswer(row=row, text="", tokens=tokens, length=length, ended=True) for row in range(10)],
    )


STUDENT = asked(nll=2.5, wrong=7, length=9, tokens=(1, 1, 1, 1, 1, 1), compared=True)
TEACHER = asked(nll=2.0, wrong=3, length=6, tokens=(1, 2, 3, 4, 5), compared=False)


def test_every_figure_is_told():
    told = text_quality(STUDENT, TEACHER, ITEMS, **SURE)
    assert {name: each.unit for name, each in told.items()} == UNITS
    expected = {
        "perplexity": math.exp(STUDENT.test.nll.mean()),
        "perplexity_ratio": math.exp(0.5),
        "kl_mean": 299.5,
        "kl_p99": 593,
        "kl_p999": 599,
        "same_top": 0.75,
        "forget_perplexity": math.exp(STUDENT.forget.nll.mean()),
        "forget_perplexity_ratio": math.exp(1.0),
        "choice_accuracy": 13 / 20,
        "choice_flips": 4 / 20,
        "repetition": 2 / 3,
        "length_ratio": 1.5,
    }
    assert {name: each.value for name, each in told.items()} == pytest.approx(expected, rel=1e-5)
    assert {name: each.n for name, each in told.items()} == {
        **dict.fromkeys(UNITS, 30),
        **dict.fromkeys(("forget_perplexity", "forget_perplexity_ratio"), 5),
        **dict.fromkeys(("choice_accuracy", "choice_flips"), 20),
        **dict.fromkeys(("repetition", "length_ratio"), 10),
    }
    assert all(each.how and each.basis == "measured" for each in told.values())
    assert told["kl_p999"].high is None  # nothing larger was seen


def test_the_teacher_is_not_compared_with_itself():
    told = text_quality(TEACHER, None, ITEMS, **SURE)
    assert set(told) == {"perplexity", "forget_perplexity", "choice_accuracy", "repetition"}
    assert told["repetition"].value == 0 and told["repetition"].high > 0.05


def test_what_was_not_asked_has_no_figure():
    told = text_quality(Asked(test=STUDENT.test), Asked(test=TEACHER.test), [], **SURE)
    assert set(told) == {"perplexity", "perplexity_ratio", "kl_mean", "kl_p99", "kl_p999", "same_top"}


def test_different_questions_are_refused():
    short = TokenScores(row=ROWS[20:], nll=TEACHER.test.nll[20:])
    with pytest.raises(ValueError, match="give both the same sequences"):
        text_quality(STUDENT, Asked(test=short), [], **SURE)
    with pytest.raises(ValueError, match="the model chose for 20 of 19 items"):
        text_quality(STUDENT, TEACHER, ITEMS[1:], **SURE)
    fewer = Asked(test=TEACHER.test, written=TEACHER.written[1:])
    with pytest.raises(ValueError, match="ask both with the same context"):
        text_quality(STUDENT, fewer, ITEMS, **SURE)

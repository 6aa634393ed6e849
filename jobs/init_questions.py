"""What `deshi init` must know: one table of questions, in the order in which they are asked.

Each has a flag, so that a program can answer; a prompt shows its default. Where a flag is missing and nobody can be
asked, `--yes` takes the default, and without it the missing flag is named: nothing is assumed silently. A blank answer
to an optional question leaves that line out of the recipe.

What comes first is a row of `PRIORITIES`, which says what it means for the recipe:

    quality   the allowed drop is smaller, the search longer and its training twice as long; nothing else is a gate
    cost      kpi.cost_per_1000: at most half of today's price, where that is known
    speed     kpi.latency_ms_p95 (of a language model kpi.latency_ms): what users may wait
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from deshi.jobs.business import CURRENCIES, Business
from deshi.jobs.data.conversations import COLUMNS, LOSSES
from deshi.jobs.init_look import Look
from deshi.serve.kpi import QualityKpi
from deshi.serve.texts import Language, text

First = Literal["quality", "cost", "speed"]
Ask = Callable[[str, str], str]  # (question, default shown or "") -> what was typed
OFFICE_SECONDS = 22 * 8 * 3600  # of a month
PEAK = 3  # times the mean of the office hours
PRICE_PER_HOUR = {"JPY": 15.0}  # of the demo's machine; of other currencies nothing is assumed
OTHER_ERRORS = 10  # the costliest error costs this many times another


@dataclass(frozen=True, kw_only=True)
class Priority:
    """What one answer to "what comes first" means."""

    drop_points: Mapping[str, float]  # by task: the allowed drop where nobody says another
    trials: int | None = None  # None: the recipe's own default
    minutes: float | None = None
    training: float = 1.0  # times the steps


def _points(share: float) -> float:
    return round(100 * share, 1)


_USUAL = {"classify": _points(QualityKpi().max_drop), "generate": 20.0}
PRIORITIES: dict[First, Priority] = {
    "quality": Priority(drop_points={"classify": 2.0, "generate": 10.0}, trials=32, minutes=20, training=2),
    "cost": Priority(drop_points=_USUAL),
    "speed": Priority(drop_points=_USUAL),
}


@dataclass(kw_only=True)
class Known:
    """What has been found out so far."""

    look: Look
    labels: tuple[str, ...] = ()
    found: dict[str, Any] = field(default_factory=dict)

    @property
    def is_classify(self) -> bool:
        """Whether the rows have classes."""
        return bool(self.found["task"] == "classify")


@dataclass(frozen=True, kw_only=True)
class Question:
    """One question. `read` turns what was typed into the value, or raises ValueError in one sentence."""

    key: str  # of `found`; its words are the text `init.ask.<key>`
    read: Callable[[str, Known], Any]
    default: Callable[[Known], Any] = lambda known: None
    optional: bool = False
    concerns: Callable[[Known], bool] = lambda known: True

    @property
    def flag(self) -> str:
        """The command-line flag that answers it."""
        return "--" + self.key.replace("_", "-")


def answer(questions: tuple[Question, ...], known: Known, given: Mapping[str, Any], **how: Any) -> None:
    """Puts a value for every question that concerns this recipe into `known.found`; see `_answered` for `how`.

    Raises:
        ValueError: in one sentence, for a value that may not be, or naming the flag that is missing.
    """
    for question in questions:
        value = given.get(question.key)
        if question.concerns(known):
            known.found[question.key] = _answered(question, known, value, **how)
        elif value is not None:
            raise ValueError(f"{question.flag} {value} has no meaning with the other answers; leave it out")


def _answered(
    question: Question,
    known: Known,
    value: Any,
    *,
    ask: Ask | None,
    yes: bool,
    lang: Language,
    say: Callable[[str], None],
) -> Any:
    """The value of a flag, or what a person types (again and again until it can be read), or the default."""
    if value is not None:
        return question.read(str(value), known)
    default = question.default(known)
    shown = "" if default is None else _shown(default)
    if ask is not None and not yes:
        while True:
            typed = ask(text(f"init.ask.{question.key}", lang), shown).strip() or shown
            if not typed and question.optional:
                return None
            try:
                return question.read(typed, known)
            except ValueError as error:
                say(str(error))
    if question.optional:
        return None
    if not yes or default is None:
        taken = f"{question.flag} {shown}, or --yes for every default" if shown else question.flag
        raise ValueError(f"{question.flag} is missing and nobody can be asked here; add {taken}")
    return question.read(shown, known)


def _shown(value: Any) -> str:
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _one_of(flag: str, *names: str) -> Callable[[str, Known], str]:
    def read(typed: str, _: Known) -> str:
        if typed not in names:
            raise ValueError(f"{flag} {typed!r} is none of {', '.join(names)}; write one of them")
        return typed

    return read


def _column(typed: str, known: Known) -> str:
    for name in typed.split(","):
        if name.strip() not in known.look.columns:
            there = ", ".join(map(repr, known.look.columns))
            raise ValueError(f"{known.look.source} has no column {name.strip()!r}; it has {there}: name one of them")
    return typed


def _label(flag: str) -> Callable[[str, Known], str]:
    def read(typed: str, known: Known) -> str:
        if typed not in known.labels:
            raise ValueError(f"{flag} {typed!r} is no label of the rows; use one of {', '.join(known.labels)}")
        if flag == "--worst-answered" and typed == known.found["worst_true"]:
            raise ValueError(f"{flag} {typed!r} is the right answer; name the wrong one that is the costliest")
        return typed

    return read


def _number(flag: str, *, above: float = -math.inf, least: float = -math.inf, below: float = math.inf) -> Any:
    rule = f"above {above:g}" if above > -math.inf else f"of {least:g} or more"
    rule += f" and below {below:g}" if below < math.inf else ""

    def read(typed: str, _: Known) -> float:
        try:
            value = float(typed.replace(",", ""))
        except ValueError:
            value = math.nan
        if not (value > above and value >= least and value < below and math.isfinite(value)):
            raise ValueError(f"{flag} {typed} is not a number {rule}; write one")
        return value

    return read


def _words(flag: str) -> Callable[[str, Known], str]:
    def read(typed: str, _: Known) -> str:
        if not typed.strip():
            raise ValueError(f"{flag} is blank; write a path")
        return typed.strip()

    return read


def _there(typed: str, known: Known) -> str:
    place = _words("--test")(typed, known)
    if "://" not in place and not Path(place).expanduser().is_file():
        raise ValueError(f"--test {place} does not exist; check the path")
    return place


def _guessed_column(known: Known) -> str | None:
    seen = known.look
    return {"messages": seen.messages, "prompt_completion": seen.pair, "text": seen.text}[known.found["format"]] or (
        COLUMNS[known.found["format"]]
    )


def _peak(known: Known) -> float:
    return max(0.1, round(PEAK * known.found["requests_per_month"] / OFFICE_SECONDS, 1))


def _is_priced(known: Known) -> bool:
    return known.found.get("worst_true") is not None


DATA: tuple[Question, ...] = (
    Question(key="task", read=_one_of("--task", "classify", "generate"), default=lambda known: known.look.task),
    Question(
        key="text",
        read=_column,
        default=lambda known: known.look.text,
        concerns=lambda known: known.is_classify,
    ),
    Question(
        key="label",
        read=_column,
        default=lambda known: known.look.label,
        concerns=lambda known: known.is_classify,
    ),
    Question(
        key="format",
        read=_one_of("--format", *LOSSES),
        default=lambda known: known.look.format or "text",
        concerns=lambda known: not known.is_classify,
    ),
    Question(
        key="column",
        read=_column,
        default=_guessed_column,
        concerns=lambda known: not known.is_classify and not known.look.is_plain,
    ),
    Question(key="test", read=_there, optional=True),
)
WORK: tuple[Question, ...] = (
    Question(key="teacher", read=_words("--teacher")),
    Question(key="first", read=_one_of("--first", *get_args(First)), default=lambda known: "quality"),
    Question(
        key="drop_points",
        read=_number("--drop-points", above=0, below=100),
        default=lambda known: PRIORITIES[known.found["first"]].drop_points[known.found["task"]],
    ),
    Question(
        key="latency_ms",
        read=_number("--latency-ms", above=0),
        default=lambda known: 50.0 if known.is_classify else 300.0,
        concerns=lambda known: known.found["first"] == "speed",
    ),
    Question(
        key="worst_true",
        read=_label("--worst-true"),
        optional=True,
        concerns=lambda known: known.is_classify,
    ),
    Question(key="worst_answered", read=_label("--worst-answered"), concerns=_is_priced),
    Question(key="worst_cost", read=_number("--worst-cost", least=0), concerns=_is_priced),
    Question(
        key="other_cost",
        read=_number("--other-cost", least=0),
        default=lambda known: known.found["worst_cost"] / OTHER_ERRORS,
        concerns=_is_priced,
    ),
    Question(
        key="error_cost",
        read=_number("--error-cost", least=0),
        optional=True,
        concerns=lambda known: not known.is_classify,
    ),
    Question(
        key="currency",
        read=_one_of("--currency", *CURRENCIES),
        default=lambda known: Business().currency,
    ),
    Question(
        key="threads",
        read=lambda typed, known: int(_number("--threads", least=1)(typed, known)),
        default=lambda known: os.cpu_count() or 1,
    ),
    Question(key="memory_mb", read=_number("--memory-mb", above=0), optional=True),
    Question(
        key="price_per_hour",
        read=_number("--price-per-hour", least=0),
        default=lambda known: PRICE_PER_HOUR.get(known.found["currency"]),
    ),
    Question(
        key="requests_per_month",
        read=_number("--requests-per-month", above=0),
        default=lambda known: Business().requests_per_month,
    ),
    Question(key="peak_rps", read=_number("--peak-rps", above=0), default=_peak),
    Question(key="today_per_1000", read=_number("--today-per-1000", least=0), optional=True),
)
QUESTIONS = (*DATA, *WORK)

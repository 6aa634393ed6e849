"""A new recipe as text: YAML with comments in the reader's language, what is known of its rows first.

Pure: the same answers, facts and language give the same text. A value that the recipe has a default for is written out,
so that a reader sees what may be changed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from deshi.jobs.init_proof import START_MINUTES, TRIAL_MINUTES, Minutes, Proof
from deshi.jobs.init_questions import PRIORITIES
from deshi.jobs.init_split import Facts
from deshi.jobs.init_teacher import Teacher
from deshi.jobs.recipe import Distil, Search
from deshi.serve.kpi import QualityKpi
from deshi.serve.texts import Language, text

WIDTH = 108  # columns of a comment's line; a Japanese character takes two
GENERATE = {"steps": 50, "batch_size": 4, "learning_rate": 2.0e-4, "temperature": 1.0, "ce_weight": 0.5}
NO_BREAK_BEFORE = "。、，．）」』！？：；ー・"
CLASSES_SHOWN = 30


@dataclass(frozen=True, kw_only=True)
class Drafted:
    """All that a recipe is written from."""

    name: str
    source: str  # the file that the rows came from, as it was given
    found: Mapping[str, Any]  # answers, see `init_questions`
    given: frozenset[str]  # keys that a person answered; the others are assumed
    labels: tuple[str, ...]
    slices: tuple[str, ...]
    train: str  # relative to the recipe
    test: str
    held_out: bool  # test was drawn from the given file
    target: str
    seed: int
    teacher: Teacher
    facts: Facts
    proof: Proof


def recipe_text(draft: Drafted, minutes: Minutes | None, lang: Language) -> str:
    """The whole file."""
    lines = [_comment([text("init.say.header", lang, file=draft.source), *said(draft, minutes, lang)])]
    for comments, part in _sections(draft, lang):
        lines.append(_comment(comments) + _yaml(part))
    return "\n".join(lines)


def said(draft: Drafted, minutes: Minutes | None, lang: Language) -> list[str]:
    """What is known before anything runs, sentence by sentence: rows, proof, time."""
    facts, told = draft.facts, []

    def say(key: str, **values: object) -> None:
        told.append(text(f"init.say.{key}", lang, **values))

    counts = {"rows": facts.rows, "labelled": facts.labelled, "unlabelled": facts.unlabelled}
    say(f"rows_{draft.found['task']}", **{name: f"{count:,}" for name, count in counts.items()})
    if facts.dropped:
        say("dropped", rows=f"{facts.dropped:,}")
    if facts.repeated:
        say("repeated", rows=f"{facts.repeated:,}")
    if facts.classes:
        largest = sorted(facts.classes.items(), key=lambda item: -item[1])
        shown = text("list.comma", lang).join(f"{name} {count:,}" for name, count in largest[:CLASSES_SHOWN])
        say("classes", classes=shown + ("" if len(largest) <= CLASSES_SHOWN else " ..."))
    say("split", train=f"{facts.train:,}", selection=f"{facts.selection:,}", test=f"{facts.test:,}")
    if draft.held_out:
        say(f"held_out_{draft.found['task']}", seed=draft.seed)
    if facts.left_out:
        say("left_out", rows=f"{facts.left_out:,}")
    if facts.near_twins:
        say("near_twins", rows=f"{facts.near_twins:,}")
    told += _proof(draft.proof, draft.found["task"], lang)
    if minutes is not None:
        key = "minutes_planned" if minutes.planned else "minutes_rule"
        say(key, minutes=f"{minutes.minutes:,.0f}", start=f"{START_MINUTES:g}", trial=f"{TRIAL_MINUTES:g}")
        for reason in minutes.refused:
            say("refused", reason=reason)
    return told


def _proof(proof: Proof, task: str, lang: Language) -> Iterator[str]:
    drop, test = _points(proof.true_drop), f"{proof.rows:,}"
    assumed = text(
        f"init.say.assumed_{task}",
        lang,
        drop=drop,
        discordant=f"{proof.discordant:.0%}",
        confidence=f"{proof.confidence:.0%}",
    )
    if proof.smallest is None:
        yield text("init.say.not_provable", lang, test=test, assumed=assumed)
    else:
        ends = {"points": _points(proof.smallest), "floor": _points(proof.without_flips)}
        yield text("init.say.provable", lang, test=test, assumed=assumed, **ends)
    margin = _points(proof.margin)
    if proof.needed is None:
        yield text("init.say.too_strict", lang, margin=margin, drop=drop)
    else:
        key = "enough" if proof.is_enough else "not_enough"
        yield text(f"init.say.{key}", lang, margin=margin, needed=f"{proof.needed:,}")


def _sections(draft: Drafted, lang: Language) -> Iterator[tuple[list[str], dict[str, Any]]]:
    found, task = draft.found, draft.found["task"]
    classify = task == "classify"

    def words(*keys: str, **values: object) -> list[str]:
        return [text(f"init.comment.{key}", lang, **values) for key in keys]

    yield words("name"), {"name": draft.name, "task": task, "storage": "runs", "seed": draft.seed}
    yield words("data"), {"data": _data(draft)}
    finetune = "teacher_finetune" if draft.teacher.finetune else "teacher_as_it_is"
    teacher = {"model": draft.teacher.model, "finetune": draft.teacher.finetune, "licence": "unknown"}
    yield words(finetune), {"teacher": teacher}

    first = PRIORITIES[found["first"]]
    usual: dict[str, Any] = {"steps": Distil().steps} if classify else GENERATE
    distil = usual | {"steps": round(usual["steps"] * first.training)}
    yield words(*(() if classify else ("distill_generate",))), {"distill": distil}
    search = {"trials": first.trials or Search().trials, "minutes": _plain(first.minutes or Search().minutes)}
    yield words(f"search_{found['first']}"), {"search": search}

    target = {"name": draft.target, "threads": found["threads"], "rtt_ms": 0}
    target |= {} if found["memory_mb"] is None else {"memory_mb": _plain(found["memory_mb"])}
    target |= {"price_per_hour": _plain(found["price_per_hour"])}
    assumed = () if "price_per_hour" in draft.given else ("price_assumed",)
    yield words("targets", *assumed), {"targets": [target]}
    yield _business_words(draft, words), {"business": _business(draft)}
    yield words(f"kpi_{task}"), {"kpi": _kpi(draft)}


def _data(draft: Drafted) -> dict[str, Any]:
    found = draft.found
    data: dict[str, Any] = {"train": draft.train, "test": draft.test}
    if found["task"] == "classify":
        data |= {"text": found["text"], "label": found["label"]}
    else:
        data |= {"format": found["format"]} | ({"column": found["column"]} if "column" in found else {})
    return data | {"slices": list(draft.slices), "max_length": draft.teacher.max_length, "licence": "unknown"}


def _business_words(draft: Drafted, words: Any) -> list[str]:
    found = draft.found
    told: list[str] = words("business", *(() if "peak_rps" in draft.given else ("peak_assumed",)))
    if found["today_per_1000"] is None:
        told += words("today_missing")
    if found.get("worst_true") is not None:
        told += words("error_cost", worst=found["worst_true"], answered=found["worst_answered"])
        told += [] if "other_cost" in draft.given else words("other_assumed")
    return told


def _business(draft: Drafted) -> dict[str, Any]:
    found = draft.found
    business: dict[str, Any] = {
        "currency": found["currency"],
        "requests_per_month": _plain(found["requests_per_month"]),
        "peak_rps": _plain(found["peak_rps"]),
    }
    if found["today_per_1000"] is not None:
        business["today"] = {"price_per_1000": _plain(found["today_per_1000"])}
    if found.get("worst_true") is not None:
        business["error_cost"] = {
            truth: {answer: _price(found, truth, answer) for answer in draft.labels if answer != truth}
            for truth in draft.labels
        }
    elif found.get("error_cost") is not None:
        business["error_cost"] = _plain(found["error_cost"])
    return business


def _price(found: Mapping[str, Any], truth: str, answer: str) -> float:
    worst = (truth, answer) == (found["worst_true"], found["worst_answered"])
    return _plain(found["worst_cost"] if worst else found["other_cost"])


def _kpi(draft: Drafted) -> dict[str, Any]:
    found, margin = draft.found, round(draft.proof.margin, 6)
    classify = found["task"] == "classify"
    quality = {"max_drop": margin} if classify else {"same_top": round(1 - margin, 6)}
    kpi: dict[str, Any] = {"quality": quality | {"confidence": QualityKpi().confidence}}
    if found["first"] == "cost" and found["today_per_1000"]:
        kpi["cost_per_1000"] = {draft.target: _plain(found["today_per_1000"] / 2)}
    if found["first"] == "speed" and classify:
        kpi["latency_ms_p95"] = {draft.target: _plain(found["latency_ms"])}
    elif found["first"] == "speed":
        kpi["latency_ms"] = {"first_token_p95": _plain(found["latency_ms"])}
    if found["memory_mb"] is not None:
        kpi["memory_mb"] = {draft.target: _plain(found["memory_mb"])}
    return kpi


def _yaml(part: Mapping[str, Any]) -> str:
    """Keys one under the other; what holds only plain values stands on a line."""
    nested = any(isinstance(value, dict | list) for value in part.values())
    style = None if nested else False
    return str(yaml.safe_dump(dict(part), sort_keys=False, allow_unicode=True, default_flow_style=style, width=1000))


def _comment(sentences: Sequence[str]) -> str:
    return "".join(f"# {line}\n" for sentence in sentences for line in _wrapped(sentence))


def _wrapped(sentence: str) -> Iterator[str]:
    """Lines of at most `WIDTH` columns, cut between words and between Japanese characters that may begin a line."""
    line, columns = "", 0
    for piece in re.findall(r"[!-~]+|.", sentence):
        wide = sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in piece)
        if columns + wide > WIDTH and piece not in NO_BREAK_BEFORE:
            yield line.rstrip()
            line, columns = "", 0
        if line or piece != " ":
            line, columns = line + piece, columns + wide
    yield line.rstrip()


def _points(share: float) -> str:
    return f"{100 * share:.1f}"


def _plain(number: float) -> float:
    """A whole number without its point."""
    return int(number) if float(number).is_integer() else number

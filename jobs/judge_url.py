"""`deshi judge URL RECIPE --model NAME`: a vendor's model behind an OpenAI-compatible URL, put through the same verdict
as a folder (`judge.py`).

Each test row is asked once (`evidence/vendor/asking.py`). What needs weights stays "not measured". There is no release:
the run holds evidence, report and `judged.json`, so that `verify`, `report` and `trace` work and `serve` refuses.
"""

from __future__ import annotations

import math
from pathlib import Path

from deshi.jobs import judge
from deshi.jobs.evidence import quality
from deshi.jobs.evidence.compare import Comparison, model_row, spoken_on
from deshi.jobs.evidence.schema import Removed
from deshi.jobs.evidence.story import Story
from deshi.jobs.evidence.vendor import asking, vendor_answers
from deshi.jobs.evidence.vendor.vendor import Vendor
from deshi.jobs.ledger import Ledger
from deshi.jobs.progress import Progress
from deshi.jobs.recipe import Recipe
from deshi.jobs.trial import Bench

MOST_AT_ONCE = 64


def run(
    url: str,
    path: Path,
    *,
    model: str | None,
    price_per_1000: float | None = None,
    key_variable: str | None = None,
    at_once: int,
    against: str | None = None,
    storage: str | None = None,
    name: str | None = None,
) -> None:
    """Judges the model called `model` at a URL by a recipe, `at_once` requests under way at a time.

    `price_per_1000` is what the vendor asks for 1,000 requests, in the recipe's currency; without it no money is told.
    `key_variable` names the environment variable that holds the key.

    Raises:
        ValueError: in one sentence, before any work, for what cannot be judged; in the middle, where the URL gives out.
    """
    if not model:
        raise ValueError(f"which model of {url} is judged is not said; give --model NAME")
    if price_per_1000 is not None and not (math.isfinite(price_per_1000) and price_per_1000 >= 0):
        raise ValueError(f"--price-per-1000 {price_per_1000} is no price; give 0 or more, in the recipe's currency")
    if not 1 <= at_once <= MOST_AT_ONCE:
        raise ValueError(f"--concurrency {at_once} is not from 1 to {MOST_AT_ONCE}; give what the vendor allows")
    live = judge.live_release(against)
    with Vendor(url, model=model, key_variable=key_variable) as vendor:
        recipe = judge.recipe_of(path, storage=storage, name=name, given=model)
        refuse_text(recipe, url)
        vendor.refuse_unknown()
        with judge.judgement(recipe, Progress(), live, serves=False) as at:
            bench = at.bench()
            told = compared(at, vendor, bench, price=price_per_1000, at_once=at_once, against=against)
            at.folder.publish_judged(told, at.lesson, bench)
            at.said.verdict(told.evidence, f"{recipe.storage}/{recipe.name}", None)


def refuse_text(recipe: Recipe, url: str) -> None:
    """Raises ValueError for a language model: what its verdict rests on cannot be had from a URL."""
    if recipe.task != "classify":
        raise ValueError(
            f"task {recipe.task} is judged by KL and perplexity, which need the weights, and {url} gives text alone; "
            f"give the model's folder"
        )


def compared(
    at: judge.Judgement, vendor: Vendor, bench: Bench, *, price: float | None, at_once: int, against: str | None
) -> Comparison:
    """The vendor's answers beside those of the teacher and of the live release, and the verdict on them."""
    lesson, said, recipe = at.lesson, at.said, at.lesson.recipe
    with said.stage("choose", "the teacher, as a user feels it"):
        teacher, beside = at.others(bench)
    with said.stage("asked", f"{vendor.model} at {vendor.url}, {at_once} requests at a time"):
        texts, labels = lesson.splits.table("test")["text"].to_pylist(), lesson.splits.labels
        ledger = Ledger(lesson.storage, f"{at.folder.name}/{asking.ledger_name(vendor, labels)}")
        lines = asking.ask(vendor, texts, labels, ledger, at_once=at_once, say=said.note)
    with said.stage("verdict", "the test split is opened, once, for all models together"):
        held = quality.answered(lesson, [teacher, *beside], "test")
        chosen = vendor_answers.answered(lesson, lines, held["teacher"])
        model = vendor_answers.asked_model(vendor, labels, lines)
        rows = [
            vendor_answers.row(recipe, model, chosen, lines, price=price),
            *(model_row(lesson, each, held[each.id].quality, id=each.id) for each in (teacher, *beside)),
        ]
        told, facts = {"chosen": chosen, **held}, quality.facts(lesson)
        return spoken_on(
            lesson,
            at.machine,
            told=told,
            rows=rows,
            facts=facts,
            risk=vendor_answers.risk(lesson, rows, told, facts),
            left_out=(),
            story=Story(removed=Removed()),
            seconds=said.seconds,
            against=against,
            how={"asked": vendor_answers.ASKED.format(url=vendor.url, model=vendor.model)},
        )

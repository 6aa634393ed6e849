"""`deshi init`: from a file of rows and a few answers to a commented recipe that a run accepts.

It looks at the file, asks which columns hold what, reads the rows, asks what the business needs, holds out a test where
there is none, and says what the rows can prove and how long the run will take. Nothing is put in place before the whole
recipe has been read back by `Recipe.load`; the parts of the rows come first, the recipe last, and what is there already
is kept unless `force`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow.parquet as pq

from deshi.jobs.data.conversations import plain
from deshi.jobs.init_look import look
from deshi.jobs.init_proof import minutes, needed_for, proof
from deshi.jobs.init_questions import DATA, WORK, Ask, Known, answer
from deshi.jobs.init_recipe import Drafted, recipe_text, said
from deshi.jobs.init_split import as_file, parts_of, rows_of
from deshi.jobs.init_teacher import teacher_of
from deshi.jobs.recipe import Data, Recipe
from deshi.serve.durable import in_one_step
from deshi.serve.kpi import QualityKpi
from deshi.serve.texts import Language, text

SEED: int = Recipe.model_fields["seed"].default


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is not a question."""

    name: str | None = None  # None: the file's
    target: str = "onprem"
    slices: tuple[str, ...] = ()
    force: bool = False
    yes: bool = False
    lang: Language = "en"


def language_of(environment: Mapping[str, str]) -> Language:
    """The language that a person's locale asks for; English where it is neither."""
    locale = next((value for key in ("LC_ALL", "LC_MESSAGES", "LANG") if (value := environment.get(key))), "")
    return "ja" if locale.lower().startswith("ja") else "en"


def init(
    source: str,
    out: Path,
    given: Mapping[str, Any],
    options: Options,
    *,
    ask: Ask | None,
    say: Callable[[str], None],
) -> Path:
    """Writes the recipe, and train and test where they are parts of one file.

    Args:
        source: the rows: .csv, .jsonl, .parquet or .txt, a path or URI.
        out: the recipe to write.
        given: answers by key of `init_questions`; None where a flag was left out.
        options: the rest of the command line.
        ask: puts a question to a person; None where there is nobody.
        say: tells them something.

    Raises:
        ValueError: in one sentence; nothing is left behind.
    """
    out = out.expanduser().absolute()
    _refuse_existing(out, options.force)
    if not out.parent.is_dir():
        raise ValueError(f"{out.parent} is no folder; make it, or give another --out")
    ask = None if options.yes else ask
    lang, how = options.lang, {"ask": ask, "yes": options.yes, "lang": options.lang, "say": say}
    known = Known(look=look(source))
    answer(DATA, known, given, **how)
    found, task = known.found, known.found["task"]
    data = _data(source, found, options.slices)
    rows = rows_of(source, data, task)
    test = None if found["test"] is None else rows_of(found["test"], data, task)
    known.labels = tuple(sorted(set(rows["label"].drop_null().to_pylist()))) if task == "classify" else ()
    answer(WORK, known, given, **how)

    confidence, margin = QualityKpi().confidence, found["drop_points"] / 100
    parts = parts_of(rows, test, data, task, needed=needed_for(task, margin, confidence), seed=SEED)
    texts = [plain(one, data.format) if task == "generate" else one for one in rows["text"].to_pylist()]
    teacher = teacher_of(found["teacher"], out.parent, task=task, labels=known.labels, texts=texts, seed=SEED)
    places = _places(source, found["test"], out.parent)
    draft = Drafted(
        name=options.name or _name(source),
        source=PurePosixPath(source).name,
        found=found,
        given=frozenset(key for key, value in given.items() if ask is not None or value is not None),
        labels=known.labels,
        slices=options.slices,
        train=_relative(places[0], out.parent),
        test=_relative(places[1], out.parent),
        held_out=test is None,
        target=options.target,
        seed=SEED,
        teacher=teacher,
        facts=parts.facts,
        proof=proof(task, parts.facts.test, margin=margin, confidence=confidence),
    )
    made = dict(zip(places, (parts.train, parts.test), strict=True)) if test is None else {}
    for path in made:
        _refuse_existing(Path(path), options.force)
    with in_one_step(out) as partial, ExitStack() as parts_first:  # the recipe takes its place when its rows lie there
        files = {path: parts_first.enter_context(in_one_step(Path(path))) for path in made}
        for path, table in made.items():
            pq.write_table(as_file(table, data, task), files[path])
        recipe = _read_back(recipe_text(draft, None, lang), partial)
        here = {key: str(files[path]) for key, path in zip(("train", "test"), places, strict=True) if path in files}
        expected = minutes(recipe.model_copy(update={"data": recipe.data.model_copy(update=here)}))
        _read_back(recipe_text(draft, expected, lang), partial)
    told = said(draft, expected, lang)
    told += [text("init.say.parts", lang, train=places[0], test=places[1])] if made else []
    for sentence in (*told, text("init.say.written", lang, path=out), text("init.say.next", lang, path=out)):
        say(sentence)
    return out


def _data(source: str, found: Mapping[str, Any], slices: tuple[str, ...]) -> Data:
    """How the rows are read."""
    common: dict[str, Any] = {"train": source, "test": source, "slices": slices}
    if found["task"] == "classify":
        return Data(**common, text=found["text"], label=found["label"])
    return Data(**common, format=found["format"], column=found.get("column"))


def _refuse_existing(path: Path, force: bool) -> None:
    if path.is_dir():
        raise ValueError(f"{path} is a folder; give the name of a file to write")
    if path.exists() and not force:
        raise ValueError(f"{path} exists; add --force to write over it, or move it away")


def _places(source: str, test: str | None, beside: Path) -> tuple[str, str]:
    """Where train and test lie: the given files, or the parts of one, beside it; those of a URI beside the recipe."""
    if test is not None:
        return source, test
    folder = beside if "://" in source else Path(source).expanduser().absolute().parent
    stem = PurePosixPath(source).stem
    return str(folder / f"{stem}-train.parquet"), str(folder / f"{stem}-test.parquet")


def _relative(place: str, folder: Path) -> str:
    return place if "://" in place else os.path.relpath(Path(place).expanduser().absolute(), folder)


def _name(source: str) -> str:
    """A run's name from the file's: of a name without a Latin letter or digit nothing is left."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", PurePosixPath(source).stem)
    return name.strip("._-")[:64] or "poc"


def _read_back(written: str, partial: Path) -> Recipe:
    """The recipe as a run would load it, from the file that is to become it."""
    partial.write_text(written, encoding="utf-8")
    return Recipe.load(partial)

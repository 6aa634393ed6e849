"""`deshi judge`: a model that others made, put through the verdict of a recipe, and beside the release that is live.

The rows, the teacher, the targets and the KPIs are the recipe's; what `deshi poc` has finished of them is used again.
The given model is judged as it came, in full precision on its best engine here: nothing is trained, cut or rounded.
What is written is a run of its own, `<storage>/<recipe>-<model>/`, with evidence, report and a release to serve.

`judge_url.py` judges a model behind a URL on the same ground (`Judgement`).
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from deshi.jobs import poc, preflight, session
from deshi.jobs.contender import Contender, contender, teacher_contender
from deshi.jobs.data.model_folder import check_model_folder, describe, model_digest
from deshi.jobs.evidence import story
from deshi.jobs.evidence.compare import compare
from deshi.jobs.finished_run import release_of
from deshi.jobs.progress import Progress
from deshi.jobs.recipe import Recipe
from deshi.jobs.run_folder import RunFolder
from deshi.jobs.session import Machine
from deshi.jobs.stages.candidate import Candidate
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.storage import Output, Storage
from deshi.jobs.task import task_of
from deshi.jobs.trial import Bench
from deshi.serve import release
from deshi.serve.serving import MODEL_FOLDER, Serving


def run(
    model: str, path: Path, *, against: str | None = None, storage: str | None = None, name: str | None = None
) -> None:
    """Judges a model folder by a recipe; `against` is the live run, `name` the folder's name in the storage.

    Raises:
        ValueError: in one sentence, before any work, for what cannot be judged.
    """
    given = check_model_folder(model)
    live = live_release(against)
    recipe = recipe_of(path, storage=storage, name=name, given=given.resolve().name)
    with judgement(recipe, Progress(), live) as at:
        lesson, said = at.lesson, at.said
        with said.stage("given", str(given)):
            made = task_of(recipe).given(lesson, str(given))
        bench = at.bench()
        with said.stage("choose", "the model and the teacher, as a user feels them"):
            candidate = Candidate(family="given", layers=describe(made.path / "model").layers, scheme=bench.finest)
            judged = contender("given", candidate, lesson, bench, made, measured=True)
            teacher, beside = at.others(bench)
        with said.stage("verdict", "the test split is opened, once, for all models together"):
            told = compare(
                lesson,
                at.machine,
                winner=judged,
                teacher=teacher,
                beside=beside,
                left_out=(),
                story=story.Story(removed=story.removed(lesson, judged)),
                seconds=said.seconds,
                against=against,
            )
        released = at.folder.publish(told, lesson, judged, bench, [])
        said.verdict(told.evidence, f"{recipe.storage}/{recipe.name}", str(released))


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """What any given model is judged on: the run's folder, rows and teacher, and the live release if there is one."""

    folder: RunFolder
    lesson: Lesson
    machine: Machine
    said: Progress
    live: Path | None

    def bench(self) -> Bench:
        """What this machine's engines do with the teacher."""
        with self.said.stage("bench", "which engines have a chance here"):
            return poc.bench_of(self.lesson)

    def others(self, bench: Bench) -> tuple[Contender, list[Contender]]:
        """The teacher, and what stands beside it: the live release."""
        teacher = teacher_contender(self.lesson, bench)
        return teacher, [] if self.live is None else [live_contender(self.live, self.lesson, bench)]


@contextmanager
def judgement(recipe: Recipe, said: Progress, live: Path | None, *, serves: bool = True) -> Iterator[Judgement]:
    """Takes the run's folder and prepares rows and teacher, or finds them prepared.

    `serves` says whether a release comes of it; if not, none may lie there.

    Raises:
        ValueError: in one sentence, before any work, for a recipe that cannot be run or a live release of other rows.
    """
    session.settle_accelerator()
    store = Storage(recipe.storage)
    preflight.refuse(recipe, store)
    with RunFolder.taken(recipe, store) as folder:
        if not serves:
            folder.refuse_release()
        prepared = poc.prepare(recipe, store, said)
        assert prepared is not None, "only --until stops on the way"
        lesson, machine = prepared
        if live is not None:
            refuse_other(live, recipe, labels=lesson.splits.labels if recipe.task == "classify" else ())
        yield Judgement(folder=folder, lesson=lesson, machine=machine, said=said, live=live)


def live_release(against: str | None) -> Path | None:
    """The verified release of the live run, if one is given."""
    if against is None:
        return None
    live = release_of(against)
    release.verify(live)
    return live


def recipe_of(path: Path, *, storage: str | None, name: str | None, given: str) -> Recipe:
    """The recipe under the name of this judgement: as asked for, or after the recipe and the given model."""
    recipe = Recipe.load(path, storage=storage)
    return recipe.model_copy(update={"name": name or named_after(recipe.name, given)})


def named_after(recipe: str, given: str) -> str:
    """`trec-vendor-model`: the recipe's name and the model's, as far as a run's name goes."""
    words = re.sub(r"[^A-Za-z0-9._-]+", "-", given).strip("-") or "given"
    return f"{recipe}-{words}"[:64]


def refuse_other(live: Path, recipe: Recipe, *, labels: tuple[str, ...]) -> None:
    """Raises ValueError for a live release of another task, or one that answers with other labels."""
    serving = Serving.read(live)
    if serving.task != recipe.task:
        raise ValueError(f"{live} is of task {serving.task}, the recipe of task {recipe.task}; give a run of the same")
    if serving.labels != labels:
        raise ValueError(f"{live} answers with {serving.labels[:5]}, the rows have {labels[:5]}; give a run of them")


def live_contender(live: Path, lesson: Lesson, bench: Bench) -> Contender:
    """The live release: its own model and builds, measured beside the others on this machine."""
    serving, recipe = Serving.read(live), lesson.recipe
    static = describe(live / MODEL_FOLDER).model_type == "model2vec"
    model = as_it_lies(lesson, live) if static else task_of(recipe).given(lesson, str(live / MODEL_FOLDER))
    builds = sorted({build for target in serving.targets.values() for build in target.build_ids})
    scheme = builds[0].rpartition("-")[2]
    candidate = Candidate(family="given", layers=describe(model.path / "model").layers, scheme=scheme)
    return contender("live", candidate, lesson, bench, model, measured=True, builds=builds)


def as_it_lies(lesson: Lesson, live: Path) -> Output:
    """The model folder of a release of ours, byte by byte."""

    def build(out: Path) -> None:
        shutil.copytree(live / MODEL_FOLDER, out / MODEL_FOLDER)

    return lesson.storage.stage("given", {"model": model_digest(live / MODEL_FOLDER)}, build)

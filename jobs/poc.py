"""The main job, from a recipe to one evidenced winner. It reads like the table of contents of the house.

Every stage is a finished output that a second run finds again, so there is no resume mode: a killed run is run again.
The test split is opened once, in `compare`, after the winner is chosen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from deshi.jobs import choose, controls, preflight, search, session, trial
from deshi.jobs import finalist as finalists
from deshi.jobs.data.model_folder import describe
from deshi.jobs.evidence import story
from deshi.jobs.evidence.compare import compare
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.ladder import Line, Plan
from deshi.jobs.ledger import Ledger
from deshi.jobs.progress import Progress
from deshi.jobs.recipe import Recipe
from deshi.jobs.run_folder import RunFolder
from deshi.jobs.session import Machine
from deshi.jobs.stages import builds, chain
from deshi.jobs.stages.candidate import Candidate, Start
from deshi.jobs.stages.lesson import Lesson
from deshi.jobs.stages.orders import named
from deshi.jobs.storage import Output, Storage, digest_of
from deshi.jobs.task import task_of

UNTIL = ("data", "teach", "answers", "search")
FINALISTS = 2


def run(path: Path, *, until: str | None = None, storage: str | None = None) -> None:
    """Runs a recipe, or goes on with it.

    Raises:
        ValueError: in one sentence, before any work, for what cannot be run.
    """
    if until is not None and until not in UNTIL:
        raise ValueError(f"--until {until!r} is no stage to stop after; use one of {', '.join(UNTIL)}")
    recipe, said = Recipe.load(path, storage=storage), Progress()
    done = follow(recipe, said, until=until)
    if done.evidence is not None:
        said.verdict(done.evidence, f"{recipe.storage}/{recipe.name}", str(done.released))


@dataclass(frozen=True, kw_only=True)
class Followed:
    """How far a recipe was followed: the search's lines, the evidence and the release's folder, if it came to them."""

    lines: Sequence[Line] = ()
    evidence: Evidence | None = None
    released: Path | None = None


def follow(recipe: Recipe, said: Progress, *, until: str | None = None) -> Followed:
    """A whole run, or as much of it as was asked for.

    Raises:
        ValueError: as `run` does.
    """
    session.settle_accelerator()
    store = Storage(recipe.storage)
    preflight.refuse(recipe, store)
    with RunFolder.taken(recipe, store) as folder:
        prepared = prepare(recipe, store, said, until=until)
        if prepared is None:
            return Followed()
        lesson, machine = prepared
        with said.stage("bench", "which engines have a chance here"):
            bench = bench_of(lesson)
        said.note("; ".join(f"{scheme}: {', '.join(names)}" for scheme, names in bench.builds.items()))

        plan = _plan(lesson, bench)
        with said.stage("search", f"{plan.trials} trials, at most {plan.trained} of them trained"):
            lines = _search(lesson, machine, bench, plan, folder, said)
        if until == "search":
            return Followed(lines=lines)
        with said.stage("choose", "finalists on validation rows, as a user feels them"):
            chosen = choose.choose(lesson, bench, plan, lines, most=FINALISTS, said=said)
        with said.stage("controls", "the same budget without the teacher's answers"):
            controlled = controls.controls(lesson, machine, bench, plan, chosen, lines)
        with said.stage("verdict", "the test split is opened, once, for all models together"):
            told = compare(
                lesson,
                machine,
                winner=chosen.winner,
                teacher=chosen.teacher,
                beside=([chosen.distilled] if chosen.distilled else []) + list(controlled.made),
                left_out=controlled.left_out,
                story=story.of_search(lesson, machine, bench, plan, chosen, lines),
                seconds=said.seconds,
            )
        released = folder.publish(told, lesson, chosen.winner, bench, lines)
        return Followed(lines=lines, evidence=told.evidence, released=released)


def prepare(
    recipe: Recipe, store: Storage, said: Progress, *, until: str | None = None
) -> tuple[Lesson, Machine] | None:
    """The rows, Ray, the teacher and its answers: what every student and every judgement starts from."""
    task = task_of(recipe)
    with said.stage("data", f"{recipe.data.train} and {recipe.data.test}"):
        rows, teacher_rows = preflight.split(recipe, store), preflight.teacher_rows(recipe, store)
        preflight.refuse_unpriced(recipe, rows)
    if until == "data":
        return None
    with said.stage("machine", "starting Ray"):
        machine = session.connect()
    lesson = Lesson(recipe=recipe, storage=store, splits_key=rows.key, precision=_precision(recipe, store, machine))
    facts = lesson.splits.facts()
    classes = f"; {len(facts.classes)} classes" if facts.classes else ""
    said.note(", ".join(f"{name} {count}" for name, count in facts.rows.items()) + classes)

    with said.stage("teach", f"teacher from {Path(recipe.teacher.model).name}"):
        lesson = lesson.taught_by(task.teach(lesson, machine, teacher_rows.key))
    if until == "teach":
        return None
    with said.stage("answers", "the teacher's answers, once for all students"):
        lesson = task.ask(lesson, machine)
    return None if until == "answers" else (lesson, machine)


def _precision(recipe: Recipe, store: Storage, machine: Machine) -> str:
    asked, train = recipe.resources.train.precision, recipe.resources.train
    use_gpu = machine.gpus > 0 if train.use_gpu == "auto" else bool(train.use_gpu)
    inputs = {"asked": asked, "gpu": use_gpu, "cpu": session.describe_machine()["cpu"]}

    def build(out: Path) -> None:
        (out / "precision.txt").write_text(session.choose_precision(asked, use_gpu=use_gpu), encoding="utf-8")

    return (store.stage("precision", inputs, build).path / "precision.txt").read_text(encoding="utf-8")


def bench_of(lesson: Lesson) -> trial.Bench:
    """What this machine's engines do with the teacher: its yardstick, and the builds worth trying."""
    task = task_of(lesson.recipe)
    names = task.runnable(lesson.recipe)
    teacher = Output(key=lesson.teacher_key, storage=lesson.storage)
    yardstick = builds.export(lesson, teacher, sorted({*names, task.yardstick}))
    threads, typical = finalists.local_threads(lesson.recipe.targets[0]), task.typical(lesson)
    rows = task.latency(lesson, yardstick, yardstick, builds=names, threads=threads, shapes=task.screened_at(typical))
    return trial.Bench(yardstick_key=yardstick.key, threads=threads, typical=typical, builds=task.screen(rows, names))


def _plan(lesson: Lesson, bench: trial.Bench) -> Plan:
    recipe = lesson.recipe
    start: Start = "student-model" if recipe.student.model else "teacher"
    parent = chain.parent(Candidate(start=start), lesson).path / "model"
    depth = describe(parent).layers
    if recipe.student.layers is not None and recipe.student.layers > depth:
        raise ValueError(f"student.layers = {recipe.student.layers} is more than the {depth} there are; take fewer")
    ground = task_of(recipe).ground(recipe, parent, start, tuple(bench.builds))
    return Plan(
        trials=recipe.search.trials,
        minutes=recipe.search.minutes,
        steps=recipe.distill.steps,
        seed=recipe.seed,
        max_drop=recipe.margin or 0.0,
        size_mb=math.inf if recipe.kpi.size_mb is None else recipe.kpi.size_mb,
        start=start,
        depth=depth,
        teacher_depth=describe(lesson.teacher).layers,
        space=ground.space,
        orders=named(recipe.search.orders),
        first=ground.first,
        fixed=ground.fixed,
    )


def _search(
    lesson: Lesson, machine: Machine, bench: trial.Bench, plan: Plan, folder: RunFolder, said: Progress
) -> list[Line]:
    # More trials or minutes go on where fewer ended: they are no part of what a trial is.
    tried = repr(replace(plan, trials=0, minutes=0))
    key = digest_of([lesson.answers_key, lesson.recipe.distill.model_dump(), tried, repr(bench)])[:16]
    ledger = Ledger(lesson.storage, f"{folder.name}/trials-{key}.jsonl")
    wide = lesson.recipe.resources.search
    gpus = 0.0 if wide.gpus_per_trial == "auto" else float(wide.gpus_per_trial)
    return search.run(
        plan,
        ledger,
        partial(trial.evaluate, lesson=lesson, machine=machine, bench=bench),
        # Latency is measured alone: two trials on one node would time each other.
        concurrent=machine.nodes if wide.max_concurrent_trials == "auto" else wide.max_concurrent_trials,
        resources={"CPU": 0.001, **({"GPU": gpus} if gpus else {})},
        storage_path=f"{lesson.storage.root}/.work/search",
        filesystem=lesson.storage.filesystem,
        said=partial(said.trial, plan=plan),
        time_budget_s=wide.time_budget_s,
    )

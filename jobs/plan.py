"""What a recipe will take, before anything runs: its stages, tokens, bytes, hours and money, and what would be refused.

Nothing is trained, asked or written, and no weights are read. What the run decides by measuring (which shapes the
search draws, which order is best) is costed at the recipe's own student, which it tries first. What is assumed is said.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deshi.jobs import plan_memory, plan_stages, preflight
from deshi.jobs.data.conversations import read_conversations
from deshi.jobs.data.model_folder import check_model_folder
from deshi.jobs.data.render import CONTEXT_KEYS
from deshi.jobs.data.rows import read_rows
from deshi.jobs.data.token_counts import SAMPLE_ROWS, TokenCounts, count_tokens, longest
from deshi.jobs.evidence.benches.network_size import config_of, network_of
from deshi.jobs.evidence.benches.training_cost import Network, cached_bytes
from deshi.jobs.ladder import Plan, in_order
from deshi.jobs.plan_memory import Table
from deshi.jobs.plan_stages import Basis, Cluster, StageCost
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.candidate import Start
from deshi.jobs.stages.orders import named
from deshi.jobs.stages.sequence_answers import TOP_K
from deshi.jobs.storage import Storage
from deshi.jobs.task import task_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig


@dataclass(frozen=True, kw_only=True)
class Cost:
    """The plan. What is `refused` would stop the run, what is `unchecked` could not be checked on this machine."""

    recipe: str
    task: str
    currency: str
    teacher: Network
    student: Network
    stages: tuple[StageCost, ...]
    memory: tuple[Table, ...]
    refused: tuple[str, ...]
    unchecked: tuple[str, ...]
    warnings: tuple[str, ...]
    assumed: tuple[str, ...]

    @property
    def total(self) -> StageCost:
        """The sum of the rows, one stage after the other."""
        taken = [row.hours for row in self.stages if row.hours is not None]
        paid = [row.money for row in self.stages if row.money is not None]
        return StageCost(
            stage="total",
            what="",
            tokens=math.fsum(row.tokens for row in self.stages),
            flops=math.fsum(row.flops for row in self.stages),
            devices=max(row.devices for row in self.stages),
            hours=math.fsum(taken) if taken else None,
            money=math.fsum(paid) if paid else None,
            bytes=math.fsum(row.bytes for row in self.stages),
        )


def cost(recipe: Recipe, cluster: Cluster) -> Cost:
    """Costs a recipe.

    Raises:
        ValueError: in one sentence, where the config of a model is neither here nor given, or a shape cannot be.
    """
    task, student = recipe.task, recipe.student
    place = parent = _config_place(recipe.teacher.model, cluster.teacher_config, "teacher")
    if student.model is not None:
        parent = _config_place(student.model, cluster.student_config, "student")
    config, start_config = config_of(place, task=task), config_of(parent, task=task)
    teacher = network_of(config, task=task)
    climbed = _ladder(recipe, parent, network_of(start_config, task=task).layers, teacher.layers)

    text, unchecked = _text(recipe, cluster, place)
    basis = Basis(recipe=recipe, cluster=cluster, text=text, teacher=teacher)
    fits = [
        plan_stages.shapes_of(in_order(climbed.first, order, climbed), start_config, task=task)
        for order in climbed.training_orders
    ]
    trials = plan_stages.trials(basis, fits, climbed)
    started = plan_stages.within_minutes(trials, climbed.minutes)
    own = fits[0].parts[-1][0] if fits else network_of(start_config, task=task)
    controls = plan_stages.controls(basis, fits[0] if fits else None, climbed)
    stages = (
        plan_stages.teach(basis),
        plan_stages.answers(basis),
        plan_stages.untrained(basis, climbed, own),
        *trials[:started],
        *controls,
        plan_stages.export(basis, climbed, own),
        plan_stages.measured(basis, _rows_of(recipe, recipe.data.test), len(controls)),
    )
    largest = max((part for one in fits for part, _ in one.parts), key=lambda part: part.parameters, default=own)
    memory = plan_memory.tables(recipe, largest, teacher)
    refused, not_here = _checks(recipe, config)
    return Cost(
        recipe=recipe.name,
        task=task,
        currency=recipe.business.currency,
        teacher=teacher,
        student=own,
        stages=stages,
        memory=memory,
        refused=refused,
        unchecked=(*unchecked, *not_here),
        warnings=(
            *_ended_early(trials, started, climbed.minutes),
            *plan_memory.warnings(recipe, memory, teacher, cluster),
        ),
        assumed=tuple(_assumed(basis, memory)),
    )


def _config_place(model: str, given: Path | None, whose: str) -> Path:
    """Where the config of a model is: given, or in its folder."""
    if given is not None:
        return given
    if (Path(model).expanduser() / "config.json").is_file():
        return Path(model).expanduser()
    raise ValueError(f"{whose}.model = {model} is no folder here; give its config.json as --{whose}-config FILE")


def _ladder(recipe: Recipe, parent: Path, depth: int, teacher_depth: int) -> Plan:
    """What the search climbs, with the recipe's own student as its first candidate."""
    start: Start = "student-model" if recipe.student.model else "teacher"
    asked = recipe.student.layers
    if asked is not None and asked > depth:
        raise ValueError(f"student.layers = {asked} is more than the {depth} there are; take fewer")
    if recipe.task == "classify" and not parent.is_dir():
        raise ValueError(f"{parent} is a config alone; a classifier is planned from its whole model folder")
    ground = task_of(recipe).ground(recipe, parent, start, ("fp32",))
    return Plan(
        trials=recipe.search.trials,
        minutes=recipe.search.minutes,
        steps=recipe.distill.steps,
        seed=recipe.seed,
        max_drop=recipe.margin or 0.0,
        size_mb=math.inf,
        start=start,
        depth=depth,
        teacher_depth=teacher_depth,
        space=ground.space,
        orders=named(recipe.search.orders),
        first=ground.first,
        fixed=ground.fixed,
    )


def _text(recipe: Recipe, cluster: Cluster, place: Path) -> tuple[TokenCounts, tuple[str, ...]]:
    """The tokens of data.train, and why they could not be counted, where they could not."""
    source = recipe.data.train
    if "://" in source:
        why = f"data.train = {source} is not on this machine"
    elif not Path(source).is_file():
        why = f"data.train = {source} does not exist here"
    elif not (place / "tokenizer.json").is_file():
        why = "the teacher's tokenizer is not here"
    else:
        try:
            return count_tokens(recipe, source, place), ()
        except ValueError as error:
            why = str(error)
    rows = cluster.rows or recipe.distill.steps * recipe.distill.batch_size
    return longest(recipe, rows), (
        f"{why}: {rows:,} rows of max_length = {recipe.data.max_length} tokens are costed, every token learned; "
        "give --rows for another number",
    )


def _rows_of(recipe: Recipe, source: str) -> int | None:
    """The rows of a file that is here."""
    data = recipe.data
    if "://" in source or not Path(source).is_file():
        return None
    try:
        if recipe.task == "classify":
            return int(read_rows(source, text=data.text, label=data.label, slices=data.slices).num_rows)
        read = read_conversations(
            source, format=data.format, column=data.column, loss_on=data.learned, slices=data.slices
        )
        return int(read.num_rows)
    except ValueError:
        return None  # `_text` or the run says why


def _checks(recipe: Recipe, config: PretrainedConfig) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What `preflight` refuses; and what it could not look at here, which is a model that is not here."""
    refused, unchecked = [], []
    for model in filter(None, (recipe.teacher.model, recipe.student.model)):
        try:
            check_model_folder(model)
        except ValueError as error:
            unchecked.append(str(error))
    with tempfile.TemporaryDirectory(prefix="deshi-plan-") as nowhere:
        try:
            preflight.refuse(recipe, Storage(nowhere))  # the recipe's own storage is not touched
        except ValueError as error:
            if str(error) not in unchecked:
                refused.append(str(error))
    context = next((value for key in CONTEXT_KEYS if isinstance(value := getattr(config, key, None), int)), None)
    if not refused and context is not None and recipe.data.max_length > context:
        refused.append(f"data.max_length = {recipe.data.max_length} is above the {context} positions of the teacher")
    return tuple(refused), tuple(unchecked)


def _ended_early(trials: tuple[StageCost, ...], started: int, minutes: float) -> Iterator[str]:
    if started < len(trials):
        taken = math.fsum(row.hours or 0.0 for row in trials) * 60
        yield (
            f"search.minutes = {minutes:g} ends the training after {started} of {len(trials)} trials at this speed, "
            f"and the others are not costed; all of them take {taken:,.0f} minutes"
        )


def _assumed(basis: Basis, memory: tuple[Table, ...]) -> Iterator[str]:
    recipe, cluster, text, train = basis.recipe, basis.cluster, basis.text, basis.recipe.resources.train
    if len(text.lengths) > 1:
        learned = f", of which {text.share:.0%} are learned" if recipe.task == "generate" else ""
        packed = f", packed to {text.efficiency:.0%} of max_length" if text.packing else ""
        yield (
            f"data.train has {text.rows:,} rows of {text.mean:.0f} +- {text.error:.0f} tokens{learned}{packed}: from a "
            f"sample of at most {SAMPLE_ROWS} rows, repeated ones counted"
        )
    if cluster.tflops is not None:
        yield (
            f"a device reaches {cluster.utilisation:.0%} of {cluster.tflops:g} TFLOP/s in every stage; starting "
            "workers, loading, cutting, exporting and measuring take time that is not counted"
        )
        yield "stages run one after the other; a machine is paid only while it works"
    yield (
        "every trial that trains is costed at the recipe's own student, which is trained first; shapes that the search "
        "draws may be larger, up to the model that they are cut from"
    )
    if train.precision == "auto":
        yield f"precision auto, which is measured on the machine, is taken as {plan_memory.precision_of(recipe)}"
    if recipe.task == "classify":
        yield "the whole vocabulary is trained; the run trains only the pieces that the text has"
    else:
        each = cached_bytes(basis.teacher.vocabulary)
        yield f"a target's cached answer, the {TOP_K} likeliest pieces, takes {each} bytes, measured on ChitChat"
    host = plan_memory.host_memory(recipe, memory, cluster)
    yield (
        f"a machine of {min(recipe.distill.workers, cluster.devices_per_machine)} workers needs {host / 1e9:.1f} GB of "
        "its own memory while they load, each the whole model in fp32"
    )

"""The rows of a plan: what each stage of a run computes, keeps, takes and costs.

A row follows the stage's own code: `answers` asks the rows that training will see, a trial goes through its chain shape
by shape, trials train while `search.minutes` last, controls repeat the winner's shape and steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deshi.jobs.data import sequences, split
from deshi.jobs.data.token_counts import TokenCounts
from deshi.jobs.evidence.benches.network_size import narrower, network_of, shallower
from deshi.jobs.evidence.benches.training_cost import (
    GGUF_BYTES_A_WEIGHT,
    Network,
    Work,
    cached_bytes,
    forward_flops,
    hours,
    machines,
    training_flops,
)
from deshi.jobs.ladder import Plan
from deshi.jobs.poc import FINALISTS
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.candidate import WHOLE, Candidate
from deshi.jobs.stages.orders import training_steps
from deshi.jobs.task import task_of

if TYPE_CHECKING:
    from transformers import PretrainedConfig

FOLDER_BYTES_A_WEIGHT = 4  # stages keep model folders in float32
CLASS_ANSWER_BYTES = 64  # a row's classes, log-probabilities and tail; next to nothing
UNTRAINED_CONTROLS = 2  # quantize-only, and static or unrecovered
BUILD_BYTES_A_WEIGHT = {"generate": tuple(GGUF_BYTES_A_WEIGHT.values()), "classify": (4.0, 1.0)}  # fp32, int8


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """What a plan is costed on. A device is a GPU, or one worker's share of a CPU.

    `tflops` is a device's peak in the training's precision, `utilisation` the part of it that is reached, and
    `price_per_hour` that of a machine of `devices_per_machine`, in business.currency. `rows` are those of data.train
    where the file cannot be read here; the configs stand for models that are not here.
    """

    tflops: float | None
    utilisation: float
    price_per_hour: float | None
    devices_per_machine: int
    gpu_memory_gb: float | None  # 10^9 bytes
    rows: int | None
    teacher_config: Path | None
    student_config: Path | None


@dataclass(frozen=True, kw_only=True)
class StageCost:
    """One row. With 0 devices it runs where the model will live, at a speed measured there. `bytes` are kept."""

    stage: str
    what: str
    tokens: float = 0.0
    flops: float = 0.0
    devices: float = 0.0
    hours: float | None = None
    money: float | None = None
    bytes: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Fit:
    """One training run: the network as it stands at each of its training stages, with the steps of each."""

    order: str
    parts: tuple[tuple[Network, int], ...]
    kept: float  # parameters of all the model folders that its chain leaves


@dataclass(frozen=True, kw_only=True)
class Basis:
    """What every row is computed from."""

    recipe: Recipe
    cluster: Cluster
    text: TokenCounts
    teacher: Network

    @property
    def held_out(self) -> float:
        """Rows of validation: of a file of its own as many as would have been held out, which is what they are for."""
        module = sequences if self.recipe.task == "generate" else split
        return min(module.VALIDATION_MOST, round(module.VALIDATION_SHARE * self.text.rows))

    @property
    def train_rows(self) -> float:
        """Rows of train that are learned from."""
        return max(1.0, self.text.rows - (0 if self.recipe.data.validation else self.held_out))

    @property
    def workers(self) -> float:
        """Devices that train."""
        return self.recipe.distill.workers * self.recipe.resources.train.gpus_per_worker

    def scored(self, rows: float, tokens: int | None) -> float:
        """Rows that are scored; a language model's recipe limits their tokens."""
        limited = self.recipe.task == "generate" and tokens is not None
        return min(rows, tokens / self.text.mean) if limited and tokens is not None else rows

    def row(self, stage: str, what: str, work: Work, flops: float, *, devices: float, kept: float = 0.0) -> StageCost:
        """A row, with hours where a speed is known and money where a price is."""
        cluster, taken, money = self.cluster, None, None
        if cluster.tflops is not None and devices:
            taken = hours(flops, devices=devices, tflops=cluster.tflops, utilisation=cluster.utilisation)
            if cluster.price_per_hour is not None:
                money = taken * cluster.price_per_hour * machines(devices, per_machine=cluster.devices_per_machine)
        return StageCost(
            stage=stage,
            what=what,
            tokens=work.tokens,
            flops=flops,
            devices=devices,
            hours=taken,
            money=money,
            bytes=kept,
        )


def shapes_of(candidate: Candidate, config: PretrainedConfig, *, task: str) -> Fit:
    """A candidate's chain as `chain.steps_of` goes through it, in shapes alone.

    Raises:
        ValueError: for a shape that cannot be cut out of the config, or too few steps for the chain.
    """
    budget = training_steps(candidate.chain, candidate.steps)
    network, parts, kept = network_of(config, task=task), [], 0.0
    if is_shallower := candidate.layers < network.layers:
        config = shallower(config, candidate.layers)
        network = network_of(config, task=task)
        kept += network.parameters
    for place, stage in enumerate(candidate.chain):
        if stage == "prune" and (candidate.is_pruned or is_shallower):
            config = narrower(config, candidate, task=task)
            if candidate.width != WHOLE or task == "classify":  # else the cut is the model itself
                network = network_of(config, task=task)
                kept += network.parameters
        elif place in budget:
            parts.append((network, budget[place]))
            kept += network.parameters
    return Fit(order=candidate.order, parts=tuple(parts), kept=kept)


def teach(basis: Basis) -> StageCost:
    """The teacher fine-tuned, or taken as it is."""
    recipe, asked, kept = basis.recipe, basis.recipe.teacher, FOLDER_BYTES_A_WEIGHT * float(basis.teacher.parameters)
    if not asked.finetune:
        return StageCost(stage="teach", what="teacher as it is", bytes=kept)
    epochs = asked.epochs or (3 if recipe.task == "classify" else 1)  # as the task's `teach` does
    rows = basis.train_rows / basis.text.rows_in_a_batch_row
    steps = asked.steps or math.ceil(epochs * rows / asked.batch_size)
    work = basis.text.steps(steps, batch_size=asked.batch_size, micro_batch=micro_batch(recipe, asked.batch_size))
    flops = training_flops(basis.teacher, work, recomputed=recipe.resources.train.gradient_checkpointing)
    what = f"teacher, {steps} steps of {asked.batch_size} rows"
    return basis.row("teach", what, work, flops, devices=basis.workers, kept=kept)


def answers(basis: Basis) -> StageCost:
    """The teacher's answers, once, to every row that training will see and to validation."""
    recipe, text, asked = basis.recipe, basis.text, basis.recipe.resources.teacher
    rows, each = basis.train_rows, CLASS_ANSWER_BYTES
    if recipe.task == "generate":
        batches = float(recipe.distill.steps * recipe.distill.batch_size)
        needed = batches * text.max_length / text.mean if text.packing else batches  # sequence_batches.rows_needed
        rows = 0.0 if recipe.distill.online_teacher else min(rows, needed)
        each = cached_bytes(basis.teacher.vocabulary)
    work = text.once(rows + basis.scored(basis.held_out, recipe.resources.validation_tokens))
    what = f"{rows:,.0f} of {basis.train_rows:,.0f} rows of train, and validation"
    # On a CPU the replicas share the machine, as the workers of a training do.
    on_gpus = recipe.resources.train.use_gpu is True
    devices = asked.replicas * (asked.gpus_each or 1) if on_gpus else basis.workers
    flops = forward_flops(basis.teacher, work)
    return basis.row("answers", what, work, flops, devices=devices, kept=work.targets * each)


def untrained(basis: Basis, climbed: Plan, student: Network) -> StageCost:
    """The candidates of rung 0."""
    count = climbed.trials - climbed.trained
    work = basis.text.once(count * basis.scored(basis.held_out, basis.recipe.resources.validation_tokens))
    what = f"{count} candidates, cut and scored on validation"
    return basis.row("search", what, work, forward_flops(student, work), devices=0)


def trained(basis: Basis, one: Fit, *, stage: str, what: str, asks: bool) -> StageCost:
    """A training run; where it `asks`, the teacher answers in the loop."""
    distil, train = basis.recipe.distill, basis.recipe.resources.train
    flops, batch = 0.0, distil.batch_size
    for network, steps in one.parts:
        work = basis.text.steps(steps, batch_size=batch, micro_batch=micro_batch(basis.recipe, batch))
        flops += training_flops(network, work, recomputed=train.gradient_checkpointing)
        flops += forward_flops(basis.teacher, work) if asks else 0.0
    all_steps = sum(steps for _, steps in one.parts)
    work = basis.text.steps(all_steps, batch_size=batch, micro_batch=micro_batch(basis.recipe, batch))
    return basis.row(stage, what, work, flops, devices=basis.workers, kept=FOLDER_BYTES_A_WEIGHT * one.kept)


def trials(basis: Basis, fits: Sequence[Fit], climbed: Plan) -> tuple[StageCost, ...]:
    """Every trial that may train: each order in turn, then other shapes in the best order, costed as the dearest."""
    asks = basis.recipe.distill.online_teacher or basis.recipe.distill.hidden_weight > 0
    rows = [trained(basis, one, stage="train", what=one.order, asks=asks) for one in fits[: climbed.trained]]
    others = climbed.trained - len(rows) if rows else 0
    if not others:
        return tuple(rows)
    dearest = fits[max(range(len(rows)), key=lambda at: rows[at].flops)]
    more = trained(basis, dearest, stage="train", what="another shape in the best order", asks=asks)
    return (*rows, *(more for _ in range(others)))


def within_minutes(rows: Sequence[StageCost], minutes: float) -> int:
    """How many of the trials the ladder starts: the first, then while the spent and one of the mean fit in."""
    spent, count = 0.0, 0
    for row in rows:
        if row.hours is None:
            return len(rows)
        if count and (spent + spent / count) * 60 > minutes:
            break
        spent, count = spent + row.hours, count + 1
    return count


def controls(basis: Basis, one: Fit | None, climbed: Plan) -> tuple[StageCost, ...]:
    """The winner's shape and steps, told the labels or the text and not the answers."""
    if one is None:
        return ()
    starts = ["pretrained layers"] if task_of(basis.recipe).fresh_start else []
    starts += ["the teacher's layers"] if climbed.start == "teacher" else []
    return tuple(
        trained(basis, one, stage="control", what=f"from {start}, without answers", asks=False) for start in starts
    )


def export(basis: Basis, climbed: Plan, student: Network) -> StageCost:
    """Engine builds: the teacher's in every scheme, each trial's in one, counted as the widest."""
    widths = BUILD_BYTES_A_WEIGHT[basis.recipe.task]
    kept = basis.teacher.parameters * sum(widths) + climbed.trials * student.parameters * max(widths)
    return StageCost(stage="export", what=f"builds of the teacher and of {climbed.trials} trials, at most", bytes=kept)


def measured(basis: Basis, rows: int | None, trained_controls: int) -> StageCost:
    """The final comparison on the test rows, of which there are `rows` if they could be counted."""
    models = 1 + FINALISTS + UNTRAINED_CONTROLS + trained_controls
    what = f"at most {models} models on {'the' if rows is None else f'{rows:,}'} test rows"
    if rows is None:
        return StageCost(stage="measure", what=what)
    work = basis.text.once(models * basis.scored(rows, basis.recipe.resources.test_tokens))
    return basis.row("measure", what, work, forward_flops(basis.teacher, work), devices=0)


def micro_batch(recipe: Recipe, batch_size: int) -> int:
    """Rows that a worker computes at once."""
    return max(1, batch_size // (recipe.distill.workers * recipe.resources.train.gradient_accumulation))

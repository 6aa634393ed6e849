"""What a plan says of memory: the bytes on each rank at every ZeRO stage, and a sentence for what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from deshi.jobs.evidence.benches.training_cost import STAGES, STATES, Network, RankMemory, Work, Zero, rank_memory
from deshi.jobs.plan_stages import Cluster, micro_batch
from deshi.jobs.recipe import Recipe
from deshi.jobs.stages.deepspeed_config import deepspeed_config

# DeepSpeed's own defaults, in numbers.
REDUCE_BUCKET, MAX_LIVE = 5e8, 1e9
USABLE = 0.9  # of a device's memory; the rest is the runtime's own, communication and fragments


@dataclass(frozen=True, kw_only=True)
class Table:
    """One training run's memory at each ZeRO stage; `chosen` is the recipe's."""

    what: str
    network: Network
    rows: int  # of the micro batch
    chosen: int
    stages: tuple[RankMemory, ...]  # by stage, 0 to 3

    @property
    def own(self) -> RankMemory:
        """At the recipe's stage."""
        return self.stages[self.chosen]


def precision_of(recipe: Recipe) -> str:
    """The training's precision; what "auto" comes to is measured on the machine, and taken here as usual."""
    train = recipe.resources.train
    if train.precision != "auto":
        return train.precision
    return "bf16" if train.use_gpu is True else "fp32"


def table(recipe: Recipe, what: str, network: Network, *, batch_size: int, teacher: Network | None) -> Table:
    """A training run's memory. Rows are as long as they may be, and every token of text a target."""
    from deshi.kernels.through_head import CHUNK

    train, gpu = recipe.resources.train, recipe.resources.train.use_gpu is True
    settings = zero_settings(recipe, batch_size)
    rows = micro_batch(recipe, batch_size)
    tokens = float(rows * recipe.data.max_length)
    generates = recipe.task == "generate"
    bucket = _number(settings, "reduce_bucket_size", REDUCE_BUCKET)

    def at(stage: int) -> RankMemory:
        overlaps = settings.get("overlap_comm") is True and stage in (1, 2)
        zero = Zero(
            stage=stage,
            ranks=recipe.distill.workers,
            # On a CPU memory is taken when it is touched, and no more is than there are gradients.
            bucket=bucket if gpu else min(bucket, network.parameters),
            buckets=2 if overlaps else 1,
            live=_number(settings, "stage3_max_live_parameters", MAX_LIVE),
        )
        return rank_memory(
            network,
            zero,
            precision=precision_of(recipe),
            micro_batch=Work(tokens=tokens, targets=tokens, row_length=recipe.data.max_length),
            checkpointing=train.gradient_checkpointing,
            scores_kept=not generates,
            chunk=CHUNK["cuda" if gpu else "cpu"] if generates else 0,
            teacher=teacher,
        )

    stages = tuple(at(stage) for stage in STAGES)
    return Table(what=what, network=network, rows=rows, chosen=int(settings.get("stage", 0)), stages=stages)


def tables(recipe: Recipe, student: Network, teacher: Network) -> tuple[Table, ...]:
    """The largest student's training, and the teacher's where it is fine-tuned."""
    asks = recipe.distill.online_teacher or recipe.distill.hidden_weight > 0
    made = [table(recipe, "student", student, batch_size=recipe.distill.batch_size, teacher=teacher if asks else None)]
    if recipe.teacher.finetune:
        made.append(table(recipe, "teacher", teacher, batch_size=recipe.teacher.batch_size, teacher=None))
    return tuple(made)


def zero_settings(recipe: Recipe, batch_size: int) -> dict[str, Any]:
    """`zero_optimization` as DeepSpeed will get it."""
    train = recipe.resources.train
    config = deepspeed_config(
        recipe.distill.deepspeed,
        micro_batch=micro_batch(recipe, batch_size),
        accumulation=train.gradient_accumulation,
        steps=1,
        warmup_steps=0,
        learning_rate=recipe.distill.learning_rate,
        weight_decay=recipe.distill.weight_decay,
        precision="fp32",
    )
    settings: dict[str, Any] = config["zero_optimization"]
    return settings


def warnings(recipe: Recipe, made: Sequence[Table], teacher: Network, cluster: Cluster) -> list[str]:
    """A sentence for everything that does not fit."""
    if cluster.gpu_memory_gb is None:
        return []
    most, width = cluster.gpu_memory_gb * 1e9, STATES[precision_of(recipe)][0]
    said = [_does_not_fit(one, recipe, most) for one in made if one.own.total > USABLE * most]
    whole = max((one.network.parameters for one in made), default=0) * width
    if whole > USABLE * most:
        said.append(
            f"a rank holds the whole model once, {whole / 1e9:.1f} GB, before ZeRO parts it, and --gpu-memory-gb is "
            f"{cluster.gpu_memory_gb:g}: take larger devices or a smaller model"
        )
    replica = float(width * teacher.parameters)
    if replica > USABLE * most:
        said.append(
            f"the teacher that answers needs {replica / 1e9:.1f} GB on one device, and --gpu-memory-gb is "
            f"{cluster.gpu_memory_gb:g}: take larger devices or a smaller teacher"
        )
    return said


def host_memory(recipe: Recipe, made: Sequence[Table], cluster: Cluster) -> float:
    """Bytes of a machine's own memory while its ranks load the model, each whole and in float32."""
    ranks = min(recipe.distill.workers, cluster.devices_per_machine)
    return 4.0 * ranks * max(one.network.parameters for one in made)


def _does_not_fit(one: Table, recipe: Recipe, most: float) -> str:
    fits = next((stage for stage in STAGES[one.chosen + 1 :] if one.stages[stage].total <= USABLE * most), None)
    if fits is not None:
        fix = f"zero_stage: {fits} takes {one.stages[fits].total / 1e9:.1f} GB"
    elif not recipe.resources.train.gradient_checkpointing and one.own.activations > one.own.total / 4:
        fix = "write resources.train.gradient_checkpointing: true"
    elif one.rows > 1:
        fix = f"a micro batch is {one.rows} rows: take more gradient_accumulation or more workers"
    else:
        fix = "take more workers, a shorter max_length, or larger devices"
    return (
        f"training the {one.what} needs {one.own.total / 1e9:.1f} GB on a rank at ZeRO-{one.chosen} and "
        f"--gpu-memory-gb is {most / 1e9:g}, of which {USABLE:.0%} is used: {fix}"
    )


def _number(settings: dict[str, Any], key: str, default: float) -> float:
    value = settings.get(key, default)
    return float(value) if isinstance(value, int | float) else default

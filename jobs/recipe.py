"""The recipe: one YAML file that says everything a run needs, read into frozen pydantic models.

This is the only place where a default lives. Unknown keys are refused, relative paths are resolved against the
recipe file, and every error is one sentence that names the value, the rule and the fix. `deshi schema` prints the
JSON Schema of `Recipe` for editors.
"""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from deshi.jobs.business import Business
from deshi.jobs.data.conversations import LOSSES, Format, LossOn
from deshi.jobs.resources import Auto, Resources
from deshi.serve.kpi import Kpi, Target
from deshi.serve.one_sentence import one_sentence

LossName = Annotated[str, Field(description="a row of deshi.jobs.stages.losses.LOSSES")]


class Part(BaseModel):
    """Base of every part of the recipe: frozen, keyword-only, unknown keys refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class Data(Part):
    """Where the text is. Of a classifier's rows, one with an empty label is unlabelled text."""

    train: str
    test: str
    validation: str | None = None
    text: str = Field("text", description="classify: the column of the text")
    label: str = Field("label", description="classify: the column of the class")
    slices: tuple[str, ...] = ()
    max_length: int = Field(256, ge=8, le=131_072, description="tokens; the share of truncated rows is reported")
    licence: str = Field("unknown", description="licence of the text, copied into the release")
    format: Format = Field("messages", description="generate: what a row holds")
    column: str | None = Field(None, description="generate: column of the text; two, comma between, for a pair")
    loss_on: Auto | LossOn = Field("auto", description="generate: what is learned; auto: the answers, or all of a text")
    packing: bool = Field(True, description="generate: several sequences in one row of max_length")
    forget: str | None = Field(None, description="generate: text of another domain, to see what is forgotten")

    @property
    def learned(self) -> LossOn:
        """What `loss_on` comes to."""
        return LOSSES[self.format][0] if self.loss_on == "auto" else self.loss_on


class Teacher(Part):
    """The model to be imitated: taken as it is, or fine-tuned on the labelled rows first."""

    model: str
    finetune: bool = True
    steps: int | None = Field(None, ge=1)
    epochs: float | None = Field(None, gt=0)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(1.0e-4, gt=0, le=1)
    train: str | None = Field(None, description="file of labelled rows; default data.train")
    licence: str = Field("unknown", description="licence of the teacher, copied into the release")

    @model_validator(mode="after")
    def _one_length(self) -> Self:
        if self.steps is not None and self.epochs is not None:
            raise ValueError("steps and epochs exclude each other; keep one of them")
        return self


class Student(Part):
    """What the search starts from: some of the teacher's layers, or another pretrained model; how wide, if told."""

    layers: int | None = Field(None, ge=1)
    ffn: float | None = Field(None, gt=0, le=1, description="share of the feed-forward width")
    kv_groups: int | None = Field(None, ge=1, description="generate: attention groups (key-value heads) kept")
    hidden: int | None = Field(None, ge=1, description="generate: hidden width")
    model: str | None = None


class DeepSpeed(BaseModel):
    """`zero_stage`, or a whole DeepSpeed configuration (any other keys, "auto" values as in Hugging Face)."""

    model_config = ConfigDict(frozen=True, extra="allow")

    zero_stage: int = Field(1, ge=0, le=3)


class Distil(Part):
    """How the student learns from the teacher's answers."""

    steps: int = Field(200, ge=1)
    batch_size: int = Field(32, ge=1, description="rows a step over all workers")
    learning_rate: float = Field(4.0e-4, gt=0, le=1)
    warmup: float = Field(0.1, ge=0, lt=1, description="share of the steps")
    weight_decay: float = Field(0.01, ge=0)
    temperature: float = Field(2.0, gt=0)
    loss: LossName = "forward_kl"
    alpha: float = Field(0.5, ge=0, le=1, description="mixture weight of skew KL and generalised JSD")
    label_weight: float = Field(0.0, ge=0, description="classify: weight of cross-entropy on rows that have a label")
    ce_weight: float = Field(0.0, ge=0, description="generate: weight of cross-entropy on the text itself")
    hidden_weight: float = Field(0.0, ge=0, description="weight of the hidden-state match")
    online_teacher: bool = Field(False, description="ask the teacher in the loop instead of its cached answers")
    workers: int = Field(2, ge=1)
    checkpoint_every: int = Field(100, ge=1, description="steps")
    max_failures: int = Field(2, ge=0, description="worker failures that are mended by going on from the checkpoint")
    deepspeed: DeepSpeed | str = DeepSpeed()

    @model_validator(mode="after")
    def _skew_keeps_some_student(self) -> Self:
        if self.loss == "skew_kl" and self.alpha == 1:
            raise ValueError(
                "alpha = 1 compares the teacher with itself under skew_kl; write a number below 1 such as 0.1"
            )
        return self


class Search(Part):
    """How many candidates are tried. `trials` counts rung 0, which trains nothing; `minutes` bounds the training."""

    trials: int = Field(24, ge=1)
    orders: Auto | tuple[str, ...] = "auto"
    engines: Auto | tuple[str, ...] = "auto"
    minutes: float = Field(10, ge=0)


class Recipe(Part):
    """One run of Deshi: what goes in, what it must reach, and where it will live."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    task: Literal["classify", "generate"] = "classify"
    storage: str = "runs"
    seed: int = Field(0, ge=0, lt=2**31)
    data: Data
    teacher: Teacher
    student: Student = Student()
    distill: Distil = Distil()
    search: Search = Search()
    resources: Resources = Resources()
    targets: tuple[Target, ...] = Field(min_length=1)
    business: Business = Business()
    kpi: Kpi

    @field_validator("targets")
    @classmethod
    def _names_differ(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        names = [target.name for target in targets]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two targets are called {twice!r}; give each target its own name")
        return targets

    @model_validator(mode="after")
    def _keys_of_the_task(self) -> Self:
        for where, part in (("data", self.data), ("student", self.student), ("distill", self.distill)):
            _refuse_keys(self.task, where, part)
        _refuse_keys(self.task, "kpi.quality", self.kpi.quality)
        _refuse_keys(self.task, "kpi", self.kpi)
        return self

    @model_validator(mode="after")
    def _latency_names_targets(self) -> Self:
        names = [target.name for target in self.targets]
        for name in self.kpi.latency_ms_p95:
            if name not in names:
                raise ValueError(
                    f"kpi.latency_ms_p95 names {name!r}, which is no target; use one of {', '.join(names)}"
                )
        return self

    @model_validator(mode="after")
    def _error_cost_of_classes(self) -> Self:
        if self.task != "classify" and isinstance(self.business.error_cost, dict):
            raise ValueError("business.error_cost by label belongs to task: classify; write one number")
        return self

    @property
    def margin(self) -> float | None:
        """How far the task's score may lie below the teacher's; None where the recipe sets no limit to that.

        The score of a language model is the share of tokens that it and the teacher find likeliest, the teacher's 1.
        """
        quality = self.kpi.quality
        if self.task == "classify":
            return quality.max_drop
        return None if quality.same_top is None else 1 - quality.same_top

    @classmethod
    def load(cls, path: str | Path, *, storage: str | None = None) -> Recipe:
        """Reads a recipe file and resolves its relative paths against the file's folder.

        Raises:
            ValueError: in one sentence, for anything that the recipe may not say.
        """
        path = Path(path)
        try:
            raw = yaml.safe_load(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise ValueError(f"recipe {path} does not exist; give the path of a recipe.yaml") from None
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise ValueError(f"recipe {path} is not YAML ({' '.join(str(error).split())}); mend that line") from None
        if not isinstance(raw, dict):
            raise ValueError(f"recipe {path} holds no mapping of keys; see `deshi schema` for what it takes")
        try:
            recipe = cls.model_validate(raw)
        except ValidationError as error:
            told = one_sentence(error, keys="see `deshi schema`", unions=("function-after", "DeepSpeed"))
            raise ValueError(f"recipe {path}: {told}") from None
        return recipe.at(path.resolve().parent, storage=storage)

    @classmethod
    def recorded(cls, recipe: dict[str, Any]) -> Recipe:
        """The recipe as an evidence holds it, every key written out; keys at their defaults count as not stated."""
        own = copy.deepcopy(recipe)
        for other, places in OF_TASK.items():
            for where, keys in places.items() if other != own.get("task", "classify") else ():
                part = functools.reduce(lambda inner, name: inner.get(name) or {}, where.split("."), own)
                for key in keys:
                    part.pop(key, None)
        return cls.model_validate(cls.model_validate(own).model_dump(exclude_defaults=True))

    def at(self, folder: Path, *, storage: str | None = None) -> Recipe:
        """The same recipe with every relative path made absolute: files by `folder`, `--storage` by the caller's."""
        data = {key: _absolute(folder, getattr(self.data, key)) for key in ("train", "test", "validation", "forget")}
        teacher = {"model": _model(folder, self.teacher.model), "train": _absolute(folder, self.teacher.train)}
        student = {"model": _model(folder, self.student.model)}
        distill: dict[str, Any] = {}
        if isinstance(self.distill.deepspeed, str):
            distill["deepspeed"] = _absolute(folder, self.distill.deepspeed)
        where = _absolute(Path.cwd(), storage) if storage else _absolute(folder, self.storage)
        return self.model_copy(
            update={
                "storage": where,
                "data": self.data.model_copy(update=data),
                "teacher": self.teacher.model_copy(update=teacher),
                "student": self.student.model_copy(update=student),
                "distill": self.distill.model_copy(update=distill),
            }
        )


OF_TASK: dict[str, dict[str, tuple[str, ...]]] = {
    "classify": {
        "data": ("text", "label"),
        "distill": ("label_weight", "hidden_weight"),
        "kpi.quality": ("max_drop", "score", "slice_least"),
    },
    "generate": {
        "data": ("format", "column", "loss_on", "packing", "forget"),
        "student": ("kv_groups", "hidden"),
        "distill": ("ce_weight",),
        "kpi.quality": ("kl_mean", "perplexity_ratio", "same_top"),
        "kpi": ("latency_ms",),
    },
}


def _refuse_keys(task: str, where: str, part: BaseModel) -> None:
    """A key of another task would be read by nobody."""
    for other, keys in OF_TASK.items():
        mistaken = [key for key in keys.get(where, ()) if key in part.model_fields_set and other != task]
        if mistaken:
            raise ValueError(f"{where}.{mistaken[0]} belongs to task: {other}, and this is task: {task}; remove it")


def _absolute(folder: Path, value: str | None) -> str | None:
    if value is None or "://" in value:
        return value
    return str((folder / Path(value).expanduser()).resolve())


def _model(folder: Path, value: str | None) -> str | None:
    """A model is a folder beside the recipe if there is one, else an id for the hub."""
    if value is not None and "://" not in value and (folder / Path(value).expanduser()).exists():
        return _absolute(folder, value)
    return value

"""`serving.json`: all that an ingress must know to answer with a model folder. One schema, one writer, one reader.

A candidate and a release have the same layout, so that what is measured is what is served:

    <folder>/
      serving.json            this file's model
      model/                  Hugging Face folder (config.json, model.safetensors, tokenizer.json, ...)
      engines/<engine>-<scheme>/   one folder per exported build, e.g. engines/onnxruntime-w8a8/model.onnx
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from deshi.serve.kpi import Frozen

SERVING_FILE = "serving.json"
MODEL_FOLDER = "model"
ENGINES_FOLDER = "engines"

# Latency is measured, and the engine chosen, per shape class: the corners of what a router of requests sees.
SHAPE_CLASSES: dict[str, tuple[int, int]] = {
    "1x16": (1, 16),
    "1x128": (1, 128),
    "32x16": (32, 16),
    "32x128": (32, 128),
}

ANY_SHAPE = "all"  # the one class of a language model, whose engine forms its batches itself


def shape_class(rows: int, tokens: int) -> str:
    """The class of a batch of `rows` texts padded to `tokens`; the borders are the geometric middles (6, 45)."""
    return f"{1 if rows < 6 else 32}x{16 if tokens < 45 else 128}"


class ServedTarget(Frozen):
    """Which exported build answers on one target."""

    threads: int = Field(ge=1)
    builds: dict[str, str] = Field(description="shape class -> `<engine>-<scheme>`, a folder under engines/")
    slots: int = Field(1, ge=1, description="requests a language model answers at once, each with a whole context")

    @property
    def build_ids(self) -> tuple[str, ...]:
        """The builds this target must hold, each once."""
        return tuple(sorted(set(self.builds.values())))


class Serving(Frozen):
    """What the ingress answers with."""

    schema_version: Literal[1] = 1
    task: Literal["classify", "generate"] = "classify"
    name: str
    labels: tuple[str, ...] = Field((), description="of a classifier")
    max_length: int = Field(ge=8, description="tokens; longer texts are cut, longer prompts and answers are refused")
    temperature: float = Field(1.0, gt=0, description="logits are divided by it before softmax (calibration)")
    targets: dict[str, ServedTarget] = Field(min_length=1)

    @model_validator(mode="after")
    def _of_its_task(self) -> Self:
        if self.task == "classify" and len(self.labels) < 2:
            raise ValueError(f"labels are {list(self.labels)}; a classifier has at least 2")
        if self.task == "generate":
            for name, target in self.targets.items():
                if set(target.builds) != {ANY_SHAPE}:
                    raise ValueError(
                        f"target {name!r} has builds for {sorted(target.builds)}; name one for {ANY_SHAPE!r}"
                    )
        return self

    def write(self, folder: Path) -> None:
        """Writes `serving.json` into `folder`."""
        (folder / SERVING_FILE).write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> Serving:
        """Reads `folder`/serving.json.

        Raises:
            ValueError: if there is none or it is not of this schema.
        """
        path = folder / SERVING_FILE
        if not path.is_file():
            raise ValueError(f"{path} does not exist; give a folder that `deshi poc` wrote (<storage>/<name>/release)")
        return cls.model_validate_json(path.read_text(encoding="utf-8"))

    def target(self, name: str | None) -> ServedTarget:
        """The named target, or the first one.

        Raises:
            ValueError: if the release was not built for `name`.
        """
        if name is None:
            return next(iter(self.targets.values()))
        if name not in self.targets:
            raise ValueError(f"target {name!r} is not in this release; use one of {', '.join(self.targets)}")
        return self.targets[name]

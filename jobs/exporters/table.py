"""The table of exporters: build id -> what makes that build from a model folder. A build joins by one row."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Literal, Protocol

from deshi.jobs.exporters import gguf
from deshi.jobs.exporters.integers import export_integers
from deshi.jobs.exporters.onnx import export_onnx
from deshi.jobs.exporters.openvino import export_openvino
from deshi.jobs.exporters.torch_eager import export_note
from deshi.serve.engines import triton_model
from deshi.serve.engines.engine import EngineKind, build_id, engine_of
from deshi.serve.engines.generation import GenerationKind
from deshi.serve.engines.static import HEAD_FILE
from deshi.serve.engines.table import ENGINES
from deshi.serve.serving import ENGINES_FOLDER, MODEL_FOLDER


class Exporter(Protocol):
    """Writes one build of the model folder into the out folder."""

    def __call__(self, model_folder: Path, out_folder: Path, calibration: Sequence[str], max_length: int) -> None:
        """Calibration texts are in the language that is served; max_length is in tokens."""
        ...


def _onnx(model_folder: Path, out_folder: Path, calibration: Sequence[str], max_length: int, *, scheme: str) -> None:
    export_onnx(model_folder, out_folder, scheme)


def _openvino(
    model_folder: Path, out_folder: Path, calibration: Sequence[str], max_length: int, *, scheme: str
) -> None:
    export_openvino(model_folder, out_folder, scheme, calibration=calibration, max_length=max_length)


def _note(model_folder: Path, out_folder: Path, calibration: Sequence[str], max_length: int) -> None:
    export_note(out_folder)


def _gguf(
    model_folder: Path, out_folder: Path, calibration: Sequence[str], max_length: int, *, scheme: gguf.Scheme
) -> None:
    gguf.export(model_folder, out_folder, scheme=scheme)


def _integers(
    model_folder: Path, out_folder: Path, calibration: Sequence[str], max_length: int, *, scheme: str
) -> None:
    export_integers(model_folder, out_folder, scheme=scheme)


EXPORTERS: dict[str, Exporter] = {
    build_id("onnxruntime", "fp32"): partial(_onnx, scheme="fp32"),
    build_id("onnxruntime", "w8a8"): partial(_onnx, scheme="w8a8"),
    build_id("openvino", "fp32"): partial(_openvino, scheme="fp32"),
    build_id("openvino", "w8a8"): partial(_openvino, scheme="w8a8"),
    build_id("openvino", "w8a16"): partial(_openvino, scheme="w8a16"),
    **{
        build_id(engine, scheme): partial(_integers, scheme=scheme)
        for engine in ("triton", "vllm")  # the same files
        for scheme in triton_model.SCHEMES
    },
    build_id("vllm", "bf16"): _note,
    build_id("torch_eager", "fp32"): _note,
    build_id("static", "fp32"): _note,
    build_id("torch_generate", "fp32"): _note,
    build_id("llamacpp", "f16"): partial(_gguf, scheme="f16"),
    build_id("llamacpp", "q8_0"): partial(_gguf, scheme="q8_0"),
    build_id("llamacpp", "q4_0"): partial(_gguf, scheme="q4_0"),
}


def exportable(
    engines: Literal["auto"] | Sequence[str] = "auto",
    *,
    scheme: str | None = None,
    static: bool = False,
    kinds: Mapping[str, EngineKind] | Mapping[str, GenerationKind] = ENGINES,
) -> tuple[str, ...]:
    """The builds that can be made and run here, of one scheme or of all, for a `static` model or another.

    `kinds` is the table of engines of the task.

    Raises:
        ValueError: if an engine is named that is not in the table.
    """
    for name in () if engines == "auto" else engines:
        if name not in kinds:
            raise ValueError(f"engine {name!r} is not known; use one of {', '.join(kinds)}")
    return tuple(
        build
        for build in EXPORTERS
        if engine_of(build) in (kinds if engines == "auto" else engines)
        and engine_of(build) in kinds
        and (engine_of(build) == "static") == static
        and scheme in (None, build.removeprefix(f"{engine_of(build)}-"))
        and kinds[engine_of(build)].missing() is None
    )


def export(build: str, folder: Path, *, calibration: Sequence[str] = (), max_length: int = 256) -> Path:
    """Makes `folder`/engines/<build> from `folder`/model, all of it or nothing; one that is there is kept.

    Raises:
        ValueError: if no exporter makes that build, or it is not one for this model.
    """
    if build not in EXPORTERS:
        raise ValueError(f"build {build!r} is not known; use one of {', '.join(EXPORTERS)}")
    target = folder / ENGINES_FOLDER / build
    if target.is_dir():
        return target
    model_folder = folder / MODEL_FOLDER
    if (model_folder / HEAD_FILE).is_file() != (engine_of(build) == "static"):
        raise ValueError(f"build {build!r} is not one for the model in {model_folder}; see exportable()")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial_folder = Path(tempfile.mkdtemp(prefix=f".{build}-", dir=target.parent))
    try:
        EXPORTERS[build](model_folder, partial_folder, calibration, max_length)
        partial_folder.chmod(0o755)  # mkdtemp's folder is private
        partial_folder.rename(target)
    except BaseException:
        shutil.rmtree(partial_folder, ignore_errors=True)
        raise
    return target

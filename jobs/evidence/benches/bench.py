"""`make bench`: what the winner is worth, measured side by side in one run, and the bars it is held to.

Four tables: the winner and every control against the teacher in eager PyTorch; the chosen engine against every other
build of the same weights; the endpoint under 64 clients against plain Ray Serve; the share of a distillation spent
outside its steps. The last line is one JSON object `{"figures": [...]}`, missed bars included.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from transformers.utils.logging import disable_progress_bar

from deshi.jobs.data.model_folder import describe
from deshi.jobs.data.split import Splits
from deshi.jobs.evidence.felt.endpoint import Rate, closed_loop_rate
from deshi.jobs.evidence.felt.latency import LatencyRow, interleaved
from deshi.jobs.evidence.measure import open_builds
from deshi.jobs.evidence.schema import Evidence, ModelRow
from deshi.jobs.exporters import table as exporters
from deshi.jobs.exporters.onnx import trace
from deshi.jobs.stages.builds import link_or_copy
from deshi.jobs.storage import Storage
from deshi.kernels.figures import Figure, figure, print_figures
from deshi.serve.engines.engine import Engine
from deshi.serve.engines.table import engine
from deshi.serve.release import Manifest
from deshi.serve.serving import ENGINES_FOLDER, MODEL_FOLDER, SHAPE_CLASSES, Serving

SPEED_BAR, ACCURACY_BAR, ENGINE_BAR, FUSION_BAR, RPS_BAR, P99_BAR = 9.4, 0.968, 1.03, 1.1, 2.0, 0.5
EAGER = "torch_eager-fp32"
PLAIN = "plain int8"


def main(run: str) -> None:
    """Prints the tables and the figures of a finished run."""
    warnings.simplefilter("ignore")  # the exporters' remarks on their own tracing
    logging.disable(logging.WARNING)
    disable_progress_bar()
    folder = Path(run)
    evidence = Evidence.model_validate_json((folder / "evidence.json").read_text(encoding="utf-8"))
    storage = Storage(str(folder.parent))
    release = folder / "release"
    manifest = Manifest.read(release)
    figures = [
        *against_the_teacher(evidence, storage, release, manifest),
        *engines(evidence, storage, manifest),
        *endpoint(storage.fetch(manifest.lineage["served"]), texts(storage, manifest, "validation")),
        *overhead(storage, manifest),
    ]
    print_figures(figures)


def show(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints one table, the losing cells too."""
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right")
    for row in rows:
        table.add_row(*row)
    Console(width=120).print(table)
    Console().print()


def against_the_teacher(evidence: Evidence, storage: Storage, release: Path, manifest: Manifest) -> list[Figure]:
    """Requests a second of every model of the comparison, one text at a time, over the teacher in eager PyTorch."""
    threads = _threads(release)
    yardstick = storage.fetch(manifest.lineage["yardstick"])
    opened: dict[str, Engine] = dict(open_builds(yardstick, [EAGER], threads=threads))
    vocabulary = []
    for row in evidence.models:
        folder = storage.fetch(f"finalist-{row.digest}")
        build = Serving.read(folder).target(None).builds["1x16"]
        opened[row.id] = open_builds(folder, [build], threads=threads)[build]
        vocabulary.append(describe(folder / "model").vocabulary)
    timed = interleaved(
        opened, {"1x16": SHAPE_CLASSES["1x16"]}, reference=EAGER, vocabulary=min(vocabulary), min_seconds=8.0
    )
    speed = {row.engine: row for row in timed}
    teacher = _score(evidence.model_row("teacher"))
    rows, figures = [], []
    for row in evidence.models:
        time, kept = speed[row.id], _score(row) / teacher
        rows.append(
            (
                f"{row.id} ({'-'.join(row.chain)})",
                f"{time.median_ms:.2f}",
                f"{1 / time.ratio_to_reference:.1f}x",
                f"{1 / time.ratio_high:.1f} to {1 / time.ratio_low:.1f}",
                f"{_score(row):.3f}",
                f"{kept:.1%}",
            )
        )
        held = row.role in ("chosen", "distilled")
        speedup, bar = 1 / time.ratio_to_reference, SPEED_BAR if held else None
        figures.append(figure(f"speed over eager teacher, {row.id}", speedup, "ratio", bar=bar))
        if held:
            figures.append(figure(f"score kept, {row.id}", kept, "share", bar=ACCURACY_BAR))
    rows.append(("teacher, eager PyTorch", f"{speed[EAGER].median_ms:.2f}", "1.0x", "", f"{teacher:.3f}", "100.0%"))
    show(
        f"One text of 16 tokens, {threads} threads, interleaved",
        ("model", "ms", "speed", "interval", evidence.score_name, "of the teacher"),
        rows,
    )
    return figures


def engines(evidence: Evidence, storage: Storage, manifest: Manifest) -> list[Figure]:
    """The stored choice against every build of the winner's weights, and against plain dynamic int8, in each cell."""
    chosen = storage.fetch(manifest.lineage["served"])
    serving = Serving.read(chosen).target(None)
    model = storage.fetch(manifest.lineage["student"])
    scratch = storage.scratch / f"bench-{os.getpid()}-engines"
    names = exporters.exportable(static=(model / "model" / "head.safetensors").is_file())
    try:
        opened = _all_builds(
            model,
            scratch,
            names,
            calibration=texts(storage, manifest, "calibration"),
            max_length=evidence.recipe["data"]["max_length"],
            threads=_threads(chosen),
        )
        opened |= {
            f"chosen {name}": engine
            for name, engine in open_builds(chosen, serving.build_ids, threads=_threads(chosen)).items()
        }
        timed = interleaved(
            opened,
            SHAPE_CLASSES,
            reference=PLAIN if PLAIN in opened else next(iter(opened)),
            vocabulary=describe(chosen / "model").vocabulary,
            min_seconds=4.0,
            seed=1,
        )
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return _cells(timed, serving.builds, evidence)


def _cells(timed: Sequence[LatencyRow], builds: Mapping[str, str], evidence: Evidence) -> list[Figure]:
    cell = {(row.engine, row.shape): row for row in timed}
    names = list(dict.fromkeys(row.engine for row in timed))
    show(
        f"The same weights in every engine, ms a call ({evidence.machine['cpu']}); * is the stored choice",
        ("build", *SHAPE_CLASSES),
        [
            (
                name,
                *(
                    f"{cell[name, shape].median_ms:.2f}{'*' if name == f'chosen {builds[shape]}' else ''}"
                    for shape in SHAPE_CLASSES
                ),
            )
            for name in names
        ],
    )
    figures, gains = [], []
    for shape in SHAPE_CLASSES:
        choice = cell[f"chosen {builds[shape]}", shape]
        same = [n for n in names if n.endswith(builds[shape].rpartition("-")[2]) and not n.startswith("chosen")]
        best = min((cell[name, shape] for name in same), key=lambda row: row.median_ms)
        # Within 3% by interval: the choice's lower end is not above the best one's upper end by more than that.
        over = choice.ratio_low / best.ratio_high
        figures.append(figure(f"choice over best at {shape}", over, "ratio", bar=ENGINE_BAR, at_least=False))
        if (PLAIN, shape) in cell:
            gains.append(cell[PLAIN, shape].median_ms / choice.median_ms)
    if gains:
        mean = math.exp(float(np.mean(np.log(gains))))
        figures.append(figure("geometric mean over plain dynamic int8", mean, "ratio", bar=FUSION_BAR))
    return figures


def _all_builds(
    model: Path, scratch: Path, names: Sequence[str], *, calibration: Sequence[str], max_length: int, threads: int
) -> dict[str, Engine]:
    shutil.copytree(model / MODEL_FOLDER, scratch / MODEL_FOLDER, copy_function=link_or_copy)
    for name in names:
        exporters.export(name, scratch, calibration=calibration, max_length=max_length)
    opened = dict(open_builds(scratch, names, threads=threads))
    if "onnxruntime-w8a8" in names:
        opened[PLAIN] = _plain_int8(scratch, threads=threads)
    return opened


def _plain_int8(scratch: Path, *, threads: int) -> Engine:
    """What everybody does first: torch's ONNX export, unfused, through ONNX Runtime's dynamic quantization."""
    from onnxruntime.quantization import QuantType, quantize_dynamic

    folder = scratch / ENGINES_FOLDER / "onnxruntime-plain"
    folder.mkdir(parents=True)
    trace(scratch / MODEL_FOLDER, folder / "traced.onnx")
    quantize_dynamic(folder / "traced.onnx", folder / "model.onnx", weight_type=QuantType.QInt8)
    return engine("onnxruntime").open(folder, threads=threads)


def endpoint(served: Path, texts: Sequence[str]) -> list[Figure]:
    """64 clients, closed loop: our endpoint and a plain Serve app with the same engine, in turn, three times each."""
    ours: list[Rate] = []
    plain: list[Rate] = []
    target = next(iter(Serving.read(served).targets))
    for turn in range(3):
        for module, rates in (("deshi.serve.run", ours), ("deshi.jobs.evidence.benches.plain_serve", plain)):
            rates.append(closed_loop_rate(served, target, texts, module=module, clients=64, seconds=8, seed=turn))
    rps = [mine.rps / other.rps for mine, other in zip(ours, plain, strict=True)]
    p99 = [mine.p99_ms / other.p99_ms for mine, other in zip(ours, plain, strict=True)]
    show(
        "64 clients on this machine's cores, closed loop, median of 3 turns",
        ("endpoint", "requests/s", "p50 ms", "p99 ms"),
        [
            (
                name,
                *(
                    f"{np.median([getattr(rate, field) for rate in rates]):.1f}"
                    for field in ("rps", "p50_ms", "p99_ms")
                ),
            )
            for name, rates in (("deshi serve", ours), ("plain Serve + FastAPI", plain))
        ],
    )
    return [
        figure("requests/s over plain Serve, 64 clients", float(np.median(rps)), "ratio", bar=RPS_BAR),
        figure("p99 over plain Serve, 64 clients", float(np.median(p99)), "ratio", bar=P99_BAR, at_least=False),
    ]


def overhead(storage: Storage, manifest: Manifest) -> list[Figure]:
    """The share of each training run that was not spent in its steps."""
    rows, shares = [], []
    for path in sorted(Path(storage.root).glob("*/training.json")):
        told = json.loads(path.read_text(encoding="utf-8"))
        share = 1 - told["seconds_in_steps"] / told["seconds"]
        if path.parent.name.startswith(("distil-", "recover-")):
            shares.append(share)
        rows.append((path.parent.name, f"{told['steps']}", f"{told['seconds']:.0f}", f"{share:.0%}"))
    show("Training runs: Ray start-up, checkpoints and reporting", ("run", "steps", "seconds", "outside steps"), rows)
    return [figure("distillation outside its steps", float(np.median(shares)), "share")] if shares else []


def texts(storage: Storage, manifest: Manifest, split: str) -> list[str]:
    """The texts of a split of the run."""
    return list(Splits.read(storage.fetch(manifest.lineage["splits"])).table(split)["text"].to_pylist())


def _threads(folder: Path) -> int:
    return min(Serving.read(folder).target(None).threads, os.cpu_count() or 1)


def _score(row: ModelRow | None) -> float:
    assert row is not None and row.quality.score.value is not None
    return row.quality.score.value


if __name__ == "__main__":
    main(sys.argv[1])

"""Which code a stage's output depends on: a part of its address in the storage, so that changed code makes it anew.

The report, the command line and the driver are left out on purpose: changing how a run is shown, or one exporter,
trains nothing again.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deshi import kernels, serve

_TRAINING = (
    "stages/train.py",
    "stages/losses.py",
    "stages/apprentice.py",
    "stages/seen_pieces.py",
    "stages/batches.py",
    "data/tokens.py",
    "stages/language_apprentice.py",
    "stages/sequence_batches.py",
    "../kernels/through_head.py",
    "../kernels/kd_loss.py",
    "../kernels/div*.py",
    "../kernels/online_softmax.py",
    "../kernels/topk_gradient.py",
    "stages/plain_head.py",
)
_READING = ("data/render.py", "data/packing.py", "data/sequences.py", "stages/sequence_answers.py")
_CUTTING = (
    "stages/importance.py",
    "stages/prune.py",
    "stages/vocabulary.py",
    "stages/architectures.py",
    "stages/chain.py",
    "stages/cut_*.py",
    "stages/prune_lm.py",
    "stages/prune_schedule.py",
)
_INTEGERS = tuple(f"../kernels/{name}.py" for name in ("int8", "round_to_nearest", "packing", "compressed_tensors"))
# What the engine `triton` computes with, and how fast.
_KERNELS = (
    *_INTEGERS,
    "../kernels/quantized_*.py",
    "../kernels/w*.py",
    "../kernels/norm_quantize.py",
    "../kernels/kv_*.py",
    "../kernels/epilogue.py",
    "../kernels/tuning.py",
    "../kernels/tuned/*.json",
)
# Stage -> globs in `jobs`, and in `kernels` where integers are made, in `serve` where what serves is measured.
CODE: dict[str, tuple[str, ...]] = {
    "splits": ("data/*.py",),
    "precision": (),
    "pretrained": ("stages/teach*.py",),
    "teacher": (*_TRAINING, *_READING),
    "answers": ("stages/answers.py",),
    "sequence_answers": ("stages/sequence_teacher.py", *_READING),
    "depth": _CUTTING,
    "prune": _CUTTING,
    "distil": (*_TRAINING, *_READING),
    "recover": (*_TRAINING, *_READING),
    "rounded": ("stages/quantize.py", "../kernels/int8.py"),
    "static": ("stages/static.py", "stages/vocabulary.py", "stages/chain.py"),
    "served": ("exporters/*.py", "stages/builds.py", "stages/quantize.py", *_INTEGERS),
    "latency": ("exporters/*.py", "evidence/felt/latency.py", "../serve/engines/*.py", *_KERNELS),
    "decode": ("exporters/*.py", "evidence/felt/decode_speed.py", "../serve/engines/*.py", *_KERNELS),
    "judged": (
        "generate.py",
        "evidence/text/asked_text.py",
        "evidence/text/text_scores.py",
        "exporters/gguf*.py",
        *_KERNELS,
        *_READING,
    ),
    "asked": (
        "evidence/text/asked_text.py",
        "evidence/text/text_scores.py",
        "evidence/text/choices.py",
        "evidence/text/written_answers.py",
        "exporters/gguf*.py",
        "../serve/engines/*.py",
        *_KERNELS,
        *_READING,
    ),
    "explained": ("evidence/risk/explanations.py", "evidence/risk/words.py"),
    "finalist": ("finalist.py", "classify.py", "generate.py", "../serve/classifier.py"),
    "felt": (
        "evidence/felt/endpoint.py",
        "evidence/felt/load.py",
        "evidence/felt/chat_endpoint.py",
        "evidence/felt/chat_load.py",
        "evidence/felt/throughput.py",
        "evidence/felt/memory.py",
        "evidence/felt/imposed.py",
        "../serve/*.py",
    ),
}


def code_of(stage: str) -> Iterator[tuple[str, Path]]:
    """Each file with its name in the table; those of all rooms for a stage that the table does not name."""
    here = Path(__file__).parent
    roots = {"": here, "../kernels": Path(next(iter(kernels.__path__))), "../serve": Path(next(iter(serve.__path__)))}
    for pattern in CODE.get(stage, ("**/*.py", "../kernels/**/*.py", "../serve/**/*.py")):
        outside = next((root for root in roots if root and pattern.startswith(root + "/")), "")
        inside = pattern.removeprefix(outside + "/") if outside else pattern
        for path in roots[outside].glob(inside):
            yield f"{pattern}:{path.name}", path

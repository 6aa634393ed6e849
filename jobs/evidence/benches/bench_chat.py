"""`make bench-chat`: what a language model's winner is worth, measured side by side in one run, and its bars.

Four tables: the endpoint against the same file in plain llama.cpp (`plain_llamacpp.py`), one stream through its binding
and eight through its own HTTP server; the winner against the teacher in eager PyTorch; a training step
(`bench_training.py`). Everything that is divided was measured in the same round or turn. The last line is one JSON
object `{"figures": [...]}`, missed bars included.

Run it on a machine that does nothing else: llama.cpp's threads wait for each other by spinning, some hundred times a
token, and one busy neighbour slows two threads on two cores a hundredfold.

    python -m deshi.jobs.evidence.benches.bench_chat RUN_FOLDER
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import os
import sys
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from transformers.utils.logging import disable_progress_bar

from deshi.jobs.data.sequences import SequenceSplits
from deshi.jobs.evidence.benches.bench import show
from deshi.jobs.evidence.benches.bench_training import training
from deshi.jobs.evidence.benches.plain_llamacpp import plain
from deshi.jobs.evidence.felt.chat_load import ask_once, in_own_process, tokens_per_second
from deshi.jobs.evidence.felt.decode_speed import interleaved_decode
from deshi.jobs.evidence.felt.endpoint import running
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.stages.builds import link_or_copy, size_mb
from deshi.jobs.storage import Storage
from deshi.kernels.figures import Figure, figure, print_figures
from deshi.serve.chat_template import Prompts
from deshi.serve.engines.llamacpp import MODEL_FILE
from deshi.serve.release import Manifest
from deshi.serve.serving import ANY_SHAPE, ENGINES_FOLDER, MODEL_FOLDER, Serving
from deshi.serve.statistics import Interval, ratio_of_medians_interval

DECODE_BAR, FIRST_TOKEN_BAR, STREAMS_BAR, SPEEDUP_BAR, TEACHER_BAR, SIZE_BAR = 0.95, 1.1, 0.95, 2.0, 5.0, 0.25
STREAMS, ANSWER_TOKENS, PROMPT_TOKENS = 8, 64, 32
ROUNDS, TURNS, TURN_S, WARMUP_S = 15, 5, 8.0, 2.0
TRAIN_ROWS, STEP_TOKENS = 600, 1536
CONFIDENCE = 0.95
ENDPOINT = "deshi.serve.process"  # one process, as a target below 2,048 MB is served
FLOAT16 = 2  # bytes
Messages = Sequence[Mapping[str, str]]


def main(run: str) -> None:
    """Prints the tables and the figures of a finished run."""
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    disable_progress_bar()
    folder = Path(run)
    evidence = Evidence.model_validate_json((folder / "evidence.json").read_text(encoding="utf-8"))
    storage, manifest = Storage(str(folder.parent)), Manifest.read(folder / "release")
    served, teacher = (storage.fetch(manifest.lineage[name]) for name in ("served", "teacher"))
    splits = SequenceSplits.read(storage.fetch(manifest.lineage["splits"]))
    student, max_length = storage.fetch(manifest.lineage["student"]), evidence.recipe["data"]["max_length"]
    threads = min(Serving.read(served).target(None).threads, os.cpu_count() or 1)
    figures = [
        *endpoint(served, openings(splits.table("validation")["text"].to_pylist())),
        *against_the_teacher(served, teacher, threads=threads),
    ]
    # As the recipe cuts the rows, and twice as long: how much packing gains depends on that alone.
    for length in (max_length, 2 * max_length):
        figures += apart(
            student / MODEL_FOLDER,
            splits.sequences("train", student / MODEL_FOLDER, max_length=length, end=TRAIN_ROWS),
            max_length=length,
            rows_per_step=max(1, STEP_TOKENS // length),
            threads=threads,
            confidence=CONFIDENCE,
            seed=0,
        )
    print_figures(figures)


def apart(*words: Any, **named: Any) -> list[Figure]:
    """`training` in a process of its own, whose memory is given back; without figures where the machine has too little.

    A padded step holds every sequence at the length of the longest, which is what it is there to show.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        try:
            return pool.submit(training, *words, **named).result()
        except BrokenProcessPool:
            print(f"A training step at max_length {named['max_length']}: not run, the machine has too little memory")
            return []


def openings(conversations: Sequence[str]) -> list[Messages]:
    """The first message of each conversation, rows as `read_conversations` gives them; long ones are left out."""
    opened = [json.loads(text)[:1] for text in conversations]
    return [messages for messages in opened if len(messages[0]["content"]) <= 200]


def endpoint(served: Path, asked: Sequence[Messages], *, rounds: int = ROUNDS, turns: int = TURNS) -> list[Figure]:
    """The endpoint against the same file in plain llama.cpp: one stream, then eight.

    Args:
        served: a folder whose first target runs llama.cpp.
        asked: different conversations.
        rounds: of one stream; each asks another conversation.
        turns: of eight streams.
    """
    serving = Serving.read(served)
    target = serving.target(None)
    model = served / ENGINES_FOLDER / target.builds[ANY_SHAPE] / MODEL_FILE
    if not model.is_file():
        raise ValueError(f"{model} does not exist; bench-chat compares a llama.cpp build with llama.cpp itself")
    with (
        running(served, next(iter(serving.targets)), module=ENDPOINT) as server,
        plain(model, threads=target.threads, slots=target.slots, context_length=serving.max_length) as control,
    ):
        requests = [
            {"messages": messages, "max_tokens": ANSWER_TOKENS, "temperature": 0, "ignore_eos": True}
            for messages in asked
        ]
        prompts = Prompts.load(served / MODEL_FOLDER)
        times = one_stream(server.url, control, requests[: rounds + 1], prompts)
        paces = streams(server.url, control.url, requests[rounds + 1 :] or requests, turns=turns)
    return [*_one_stream_figures(times), *_streams_figures(paces)]


def one_stream(url: str, control: Any, requests: Sequence[dict[str, Any]], prompts: Prompts) -> dict[str, np.ndarray]:
    """ms to the first token and ms a later token [rounds, 2], `ours` and `plain`; the first request warms up.

    Each request is asked of both, in an order drawn anew, and never again: neither has read it before.
    """
    rng = np.random.default_rng(0)
    times: dict[str, list[tuple[float, float]]] = {"ours": [], "plain": []}
    for turn, request in enumerate(requests):
        for name in rng.permutation(list(times)):
            if name == "ours":
                sample = asyncio.run(ask_once(url, request))
                if sample.first_token_ms is None or sample.per_token_ms is None:
                    raise ValueError(f"the endpoint answered with status {sample.status}; see its log")
                taken = (sample.first_token_ms, sample.per_token_ms)
            else:
                taken = control.ask(prompts.of_chat(request["messages"]), request["max_tokens"])
            if turn:
                times[name].append(taken)
    return {name: np.array(both) for name, both in times.items()}


def streams(url: str, plain_url: str, requests: Sequence[dict[str, Any]], *, turns: int) -> dict[str, list[float]]:
    """Tokens a second [turns] of eight streams at once, `ours` and `plain`, and of `one` of ours."""
    rng = np.random.default_rng(1)
    runs = {"ours": (url, STREAMS), "plain": (plain_url, STREAMS), "one": (url, 1)}
    paces: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(turns):
        for name in rng.permutation(list(runs)):
            at, clients = runs[name]
            samples = in_own_process("closed", at, requests, clients=clients, seconds=TURN_S, seed=turn)
            paces[name].append(float(np.mean(tokens_per_second(samples, WARMUP_S, TURN_S))))
    return paces


def _one_stream_figures(times: dict[str, np.ndarray]) -> list[Figure]:
    ours, base = times["ours"], times["plain"]
    first, decode = _over(ours[:, 0], base[:, 0]), _over(base[:, 1], ours[:, 1])
    show(
        f"One stream, {ANSWER_TOKENS} tokens, {len(ours)} rounds interleaved, medians",
        ("", "first token ms", "tokens/s"),
        [
            ("deshi serve", f"{np.median(ours[:, 0]):.1f}", f"{1e3 / np.median(ours[:, 1]):.1f}"),
            ("plain llama.cpp, its binding", f"{np.median(base[:, 0]):.1f}", f"{1e3 / np.median(base[:, 1]):.1f}"),
            ("ratio", _shown(first), _shown(decode)),
        ],
    )
    return [
        figure("decode tokens/s over plain llama.cpp", decode.value, "ratio", bar=DECODE_BAR),
        figure("first token over plain llama.cpp", first.value, "ratio", bar=FIRST_TOKEN_BAR, at_least=False),
    ]


def _streams_figures(paces: dict[str, list[float]]) -> list[Figure]:
    against, gain = _over(paces["ours"], paces["plain"]), _over(paces["ours"], paces["one"])
    show(
        f"{STREAMS} streams at once, closed loop, {len(paces['ours'])} turns",
        ("", "tokens/s", "deshi serve over it"),
        [
            (f"deshi serve, {STREAMS} streams", f"{np.median(paces['ours']):.1f}", ""),
            (f"llama.cpp's own server, {STREAMS} streams", f"{np.median(paces['plain']):.1f}", _shown(against)),
            ("deshi serve, 1 stream", f"{np.median(paces['one']):.1f}", _shown(gain)),
        ],
    )
    return [
        figure(f"{STREAMS} streams over llama.cpp's own server", against.value, "ratio", bar=STREAMS_BAR),
        figure(f"{STREAMS} streams over one", gain.value, "ratio", bar=SPEEDUP_BAR),
    ]


def against_the_teacher(served: Path, teacher: Path, *, threads: int, rounds: int = 5) -> list[Figure]:
    """Decode of the served build against the teacher's folder in PyTorch, the faster of fp32 and bf16; and sizes."""
    from safetensors import safe_open

    build = Serving.read(served).target(None).builds[ANY_SHAPE]
    with tempfile.TemporaryDirectory() as scratch:
        eager = Path(scratch)
        (eager / MODEL_FOLDER).mkdir()
        for path in (teacher / MODEL_FOLDER).iterdir():
            link_or_copy(str(path), str(eager / MODEL_FOLDER / path.name))
        builds = {"winner": served / ENGINES_FOLDER / build}
        for precision in ("fp32", "bf16"):
            builds[precision] = eager / ENGINES_FOLDER / f"torch_generate-{precision}"
            builds[precision].mkdir(parents=True)
        vocabulary = min(
            json.loads((folder / MODEL_FOLDER / "config.json").read_text(encoding="utf-8"))["vocab_size"]
            for folder in (served, teacher)
        )
        timed = interleaved_decode(
            builds,
            prompt_tokens=PROMPT_TOKENS,
            answer_tokens=PROMPT_TOKENS,
            threads=threads,
            reference="winner",
            vocabulary=vocabulary,
            rounds=rounds,
            confidence=CONFIDENCE,
            part="rest",
        )
    weights = 0
    for path in (teacher / MODEL_FOLDER).glob("*.safetensors"):
        with safe_open(path, framework="numpy") as file:
            weights += sum(int(np.prod(file.get_slice(name).get_shape())) for name in file.keys())  # noqa: SIM118
    whole_mb, mb = weights * FLOAT16 / 1e6, size_mb(served, [build])
    rows = {row.engine: row for row in timed}
    faster = min(("fp32", "bf16"), key=lambda name: rows[name].ratio_to_reference)
    per_token = {name: row.median_ms / (PROMPT_TOKENS - 1) for name, row in rows.items()}
    show(
        f"Decode of one stream, {threads} threads, {rounds} rounds interleaved",
        ("", "tokens/s", "winner over it", "interval", "MB"),
        [
            (f"winner, {build}", f"{1e3 / per_token['winner']:.1f}", "", "", f"{mb:.0f}"),
            *(
                (
                    f"teacher, eager PyTorch {name}",
                    f"{1e3 / per_token[name]:.1f}",
                    f"{rows[name].ratio_to_reference:.1f}x",
                    f"{rows[name].ratio_low:.1f} to {rows[name].ratio_high:.1f}",
                    f"{2 * whole_mb if name == 'fp32' else whole_mb:.0f}",
                )
                for name in ("fp32", "bf16")
            ),
        ],
    )
    return [
        figure("decode over eager teacher", rows[faster].ratio_to_reference, "ratio", bar=TEACHER_BAR),
        figure("size over the fp16 teacher", mb / whole_mb, "ratio", bar=SIZE_BAR, at_least=False),
    ]


def _over(mine: ArrayLike, other: ArrayLike) -> Interval:
    return ratio_of_medians_interval(mine, other, confidence=CONFIDENCE, seed=0)


def _shown(ratio: Interval) -> str:
    return f"{ratio.value:.2f}x ({ratio.low:.2f} to {ratio.high:.2f})"


if __name__ == "__main__":
    main(sys.argv[1])

"""`deshi tune kernels`: the sizes that are fastest on the present card, for each class of rows of each kernel.

Every candidate of a grid is held to the exact answer and timed on a few typical shapes; it scores the geometric mean of
its times, and the best one serves the class. Candidates that do not compile, ask for more than a block has, or answer
wrongly are passed over. The file `tuned/<card>.json` becomes visible in one step, with kernels that were not tuned as
they stood before:

    {"card": "...", "sm": 90, "date": "...", "kernels": {"w4a16": [{"rows": 8, ...}, ..., {"rows": null, ...}]}}
"""

from __future__ import annotations

import datetime
import json
import math
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from functools import lru_cache, partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

from deshi.kernels import tuning
from deshi.kernels.proof import work
from deshi.kernels.speed import stream_peers
from deshi.kernels.speed.bench import DECODE_ERROR
from deshi.kernels.speed.contest import OURS, Contender, Entry, as_tensor, chosen, contest, cuda_device
from deshi.kernels.speed.products import OURS_AT, TOLERANCE
from deshi.kernels.speed.timing import copies, interval
from deshi.kernels.tuning import Config

WEIGHTS = ((4096, 4096), (8192, 8192), (28672, 8192))  # out, in
CONTEXTS = (2048, 8192)
ROWS = (8, 16, 32, 64, 256, 1024, None)  # the classes of products
BATCHES = (4, 16, 64, None)  # and of attention
LARGEST = {"kv_int8": 128}  # rows that stand for the last class
ROUNDS = 5
PROGRAMS = (1, 2, 4)  # times the processors of the card; what runs at once

# Seconds of a config for so many rows on each shape, or None if it cannot.
Measure = Callable[[Config, int], Sequence[float] | None]


def tune(only: str | None = None, out: Path | None = None) -> Path:
    """Measures and writes; the file.

    Raises:
        ValueError: if there is no device to measure on, or no such kernel.
    """
    kernels = chosen(only, GRIDS)
    device = cuda_device("tune")
    folder = out or tuning.FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    if not os.access(folder, os.W_OK):
        raise ValueError(f"{folder} cannot be written to; give a folder of yours with --out, and copy the file later")
    card = torch.cuda.get_device_name(device)
    processors = torch.cuda.get_device_properties(device).multi_processor_count
    major, minor = torch.cuda.get_device_capability(device)
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    best = {}
    for kernel in kernels:
        measure = decodes(device, cache) if kernel == "kv_int8" else products(kernel, device, cache)
        best[kernel] = tuned(kernel, processors, measure)
    return write(folder, card, 10 * major + minor, best)


def tuned(kernel: str, processors: int, measure: Measure) -> list[Config]:
    """The best config for each class of rows.

    Raises:
        ValueError: if no candidate for a class ran.
    """
    classes = BATCHES if kernel == "kv_int8" else ROWS
    return [best_config(kernel, rows, processors, measure) for rows in classes]


def best_config(kernel: str, rows: int | None, processors: int, measure: Measure) -> Config:
    """The fastest candidate for a class of rows.

    Raises:
        ValueError: if none of them ran.
    """
    scores: dict[Config, float] = {}
    for config in GRIDS[kernel](rows, processors):
        seconds = measure(config, LARGEST.get(kernel, 4096) if rows is None else rows)
        if seconds is not None:
            scores[config] = math.exp(sum(map(math.log, seconds)) / len(seconds))
    if not scores:
        raise ValueError(f"no candidate of {kernel} for {rows} rows ran on this card; its other sizes stay as they are")
    config = min(scores, key=scores.__getitem__)
    told = json.dumps(set_fields(config))
    print(f"{kernel}: {1e6 * scores[config]:.1f} us, best of {len(scores)}: {told}", flush=True)
    return config


def products_grid(rows: int | None, processors: int, *, block_k: tuple[int, ...], whole: bool) -> Iterator[Config]:
    """Tiles about as high as the class has rows; with `whole`, from 64 rows on also the weight made whole."""
    most = 128 if rows is None else min(rows, 128)
    heights = [height for height in (8, 16, 32, 64, 128) if height <= most <= 2 * height]
    widths = (32, 64, 128, 256) if most == 128 else (32, 64, 128)
    for height, width, k, warps, stages in product(heights, widths, block_k, (2, 4, 8), (2, 3, 4)):
        if not 1 <= height * width // (32 * warps) <= 128:  # numbers of the result that a thread holds
            continue
        for times in PROGRAMS if most <= 64 else PROGRAMS[:1]:  # of many rows the tiles are programs enough
            yield Config(
                rows=rows,
                block_m=height,
                block_n=width,
                block_k=k,
                warps=warps,
                stages=stages,
                programs=times * processors,
            )
    for width in (32, 64, 128) if whole and most >= 64 else ():
        yield Config(rows=rows, block_n=width, block_k=max(block_k), warps=4, dequantize=True)


def decode_grid(rows: int | None, processors: int) -> Iterator[Config]:
    """Tokens a step, and splits of the context."""
    for width, warps, stages, times in product((32, 64, 128), (1, 2, 4), (2, 3, 4), (2, 4, 8)):
        yield Config(rows=rows, block_n=width, warps=warps, stages=stages, programs=times * processors)


# Kernel -> its candidates for a class of rows on a card of so many processors.
GRIDS: dict[str, Callable[[int | None, int], Iterator[Config]]] = {
    "w4a16": partial(products_grid, block_k=(0,), whole=True),
    "w8a16": partial(products_grid, block_k=(128,), whole=True),
    "w8a8": partial(products_grid, block_k=(128, 256), whole=False),
    "kv_int8": decode_grid,
}


def products(kernel: str, device: torch.device, cache: int) -> Measure:
    """Of a product on WEIGHTS; copies of the weights are made once."""
    made, prepare = work.PRODUCT_WORK[kernel], OURS_AT[kernel]
    kept = []
    for columns, inner in WEIGHTS:
        weight = torch.randn(columns, inner, device=device).mul_(inner**-0.5).to(torch.bfloat16)
        count = copies(made(1, columns, inner).bytes_moved, cache)
        kept.append((weight, [prepare(weight) for _ in range(count)]))

    @lru_cache(maxsize=len(WEIGHTS))
    def asked(rows: int, index: int) -> tuple[Tensor, Tensor]:
        weight = kept[index][0]
        x = torch.randn(rows, weight.shape[1], device=device).to(torch.bfloat16)
        return x, x.float() @ weight.float().t()

    def measure(config: Config, rows: int) -> Sequence[float] | None:
        seconds = []
        for index, (weight, bounds) in enumerate(kept):
            x, exact = asked(rows, index)
            entry = partial(Entry, [bind(x, config) for bind in bounds], as_tensor)
            seconds.append(median(made(rows, *weight.shape), entry, exact, TOLERANCE[kernel]))
        return whole(seconds)

    return measure


def decodes(device: torch.device, cache: int) -> Measure:
    """Of attention over CONTEXTS."""

    def measure(config: Config, rows: int) -> Sequence[float] | None:
        seconds = []
        for context in CONTEXTS:
            done = work.decode(rows, context)
            contenders, exact = stream_peers.decodes(rows, context, copies(done.bytes_moved, cache), device, config)
            seconds.append(median(done, contenders[OURS], exact, DECODE_ERROR))
        return whole(seconds)

    return measure


def median(done: work.Work, contender: Contender, exact: Tensor, tolerance: float) -> float | None:
    """Seconds of ours; None if it does not compile, does not fit, or answers wrongly."""
    try:
        measured = contest(done, {OURS: contender}, exact, tolerance, rounds=ROUNDS)
    except Exception:  # whatever a compiler or a launch raises: the candidate is none
        return None
    return interval(measured.seconds[OURS]).median if OURS in measured.seconds else None


def whole(seconds: Sequence[float | None]) -> Sequence[float] | None:
    """All of them, or None."""
    ran = [one for one in seconds if one is not None]
    return ran if len(ran) == len(seconds) else None


def write(folder: Path, card: str, sm: int, best: Mapping[str, Sequence[Config]]) -> Path:
    """The card's file, in one step; kernels that are not in `best` keep the card's sizes, or else the default's."""
    path = folder / f"{tuning.slug(card)}.json"
    earlier = (path, tuning.FOLDER / path.name, tuning.FOLDER / f"{tuning.DEFAULT}.json")
    kernels = {**tuning.read(next(one for one in earlier if one.is_file())), **best}
    rows = {kernel: [json.dumps(set_fields(config)) for config in classes] for kernel, classes in kernels.items()}
    told = [f'    "{kernel}": [\n      ' + ",\n      ".join(classes) + "\n    ]" for kernel, classes in rows.items()]
    date = datetime.datetime.now(datetime.UTC).date().isoformat()
    head = f'  "card": {json.dumps(card)},\n  "sm": {sm},\n  "date": "{date}",\n'
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=folder, suffix=".tmp", delete=False, encoding="utf-8") as file:
        file.write("{\n" + head + '  "kernels": {\n' + ",\n".join(told) + "\n  }\n}\n")
    Path(file.name).chmod(0o644)
    Path(file.name).replace(path)
    tuning.table_of.cache_clear()
    return path


def set_fields(config: Config) -> dict[str, object]:
    """What a config says beyond the defaults."""
    return {
        one.name: getattr(config, one.name)
        for one in fields(config)
        if one.default is MISSING or getattr(config, one.name) != one.default
    }

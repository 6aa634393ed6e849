"""Which tile sizes a kernel takes: measured figures in a data file a card, chosen by the rows of the product.

`tuned/<card>.json` is written by `deshi tune kernels` on that card; `tuned/default.json` holds safe sizes for the
others, whose first use says so in one line. A file maps a kernel to its classes, in rising order of `rows`:

    {"card": "...", "date": "...", "kernels": {"w4a16": [{"rows": 16, "block_m": 16, ...}, {"rows": null, ...}]}}

A class serves up to that many rows, the last one (null) all others. `programs` is how many programs should run at
once: a product whose tiles are fewer is split along its inner dimension until they are as many.
"""

from __future__ import annotations

import json
import logging
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

FOLDER = Path(__file__).parent / "tuned"
DEFAULT = "default"
MAX_SPLITS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Config:
    """Sizes of one class of shapes. What a kernel does not use stays at 0."""

    rows: int | None  # of the largest product that it serves
    warps: int
    stages: int = 1
    block_m: int = 0
    block_n: int = 0
    block_k: int = 0
    programs: int = 0
    dequantize: bool = False  # the weight is made whole once and multiplied by cuBLAS

    def splits(self, rows: int, columns: int, steps: int) -> int:
        """How many programs share an inner dimension of so many steps: a power of two."""
        tiles = -(-rows // self.block_m) * -(-columns // self.block_n)
        splits = 1
        while 2 * splits <= min(MAX_SPLITS, steps) and 2 * splits * tiles <= self.programs:
            splits *= 2
        return splits


def choose(kernel: str, rows: int, device: torch.device) -> Config:
    """The sizes for a product of so many rows on this device."""
    return of_rows(table_of(_card(device.index or 0))[kernel], rows)


def of_rows(classes: tuple[Config, ...], rows: int) -> Config:
    """The class that serves so many rows."""
    return next(config for config in classes if config.rows is None or rows <= config.rows)


def slug(card: str) -> str:
    """The file name of a card: "NVIDIA H100 80GB HBM3" -> "nvidia-h100-80gb-hbm3"."""
    return re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")


@cache
def table_of(card: str) -> dict[str, tuple[Config, ...]]:
    """Kernel -> classes, of the card's file or else the default's."""
    path = FOLDER / f"{slug(card)}.json"
    if not path.is_file():
        logger.warning("kernels are not tuned for %s, default sizes are used; run: deshi tune kernels", card)
        path = FOLDER / f"{DEFAULT}.json"
    return read(path)


def read(path: Path) -> dict[str, tuple[Config, ...]]:
    """One file."""
    kernels = json.loads(path.read_text(encoding="utf-8"))["kernels"]
    return {kernel: tuple(Config(**one) for one in classes) for kernel, classes in kernels.items()}


def tuned_files() -> list[Path]:
    """The files of all cards, and the default."""
    return sorted(FOLDER.glob("*.json"))


@cache
def _card(index: int) -> str:
    return torch.cuda.get_device_name(index)

"""What an engine is: it runs one exported build on this machine. Each adapter is one file, each kind one table row.

The search measures, the report quotes and the ingress serves through these same classes; there is no second
implementation to drift.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class TokenBatch:
    """Texts as token ids, padded on the right to the longest: both arrays are int64 [rows, tokens]."""

    input_ids: NDArray[np.int64]
    attention_mask: NDArray[np.int64]


class Engine(Protocol):
    """A loaded build. Thread-safe for one caller at a time; the ingress gives each replica its own."""

    def logits(self, batch: TokenBatch) -> NDArray[np.float32]:
        """Float32 [rows, labels], before temperature and softmax."""
        ...


@dataclass(frozen=True, kw_only=True)
class EngineKind:
    """One row of the table of engines: what it is called, which schemes it runs, and how a build is loaded.

    `load(folder, threads=...)` takes `engines/<engine>-<scheme>/` and imports its runtime lazily;
    `missing()` says in one sentence why this machine cannot run it, or None.
    """

    name: str
    schemes: tuple[str, ...]
    load: Callable[..., Engine]
    missing: Callable[[], str | None]

    def open(self, folder: Path, *, threads: int) -> Engine:
        """Loads a build.

        Raises:
            ValueError: if this machine cannot run the engine.
        """
        if (reason := self.missing()) is not None:
            raise ValueError(f"engine {self.name!r} cannot run here: {reason}")
        return self.load(folder, threads=threads)


def build_id(engine: str, scheme: str) -> str:
    """The folder name of a build, `<engine>-<scheme>`."""
    return f"{engine}-{scheme}"


def engine_of(build: str) -> str:
    """The engine's name in a build id; schemes hold no dash."""
    return build.rpartition("-")[0]

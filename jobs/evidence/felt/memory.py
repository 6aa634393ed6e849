"""How much memory a server takes: the highest sum over its process tree while it is loaded, started and asked."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil


@dataclass(kw_only=True)
class Memory:
    """The highest sum over a process tree so far, in MB (10^6 bytes), and what was summed."""

    peak_mb: float = 0.0
    basis: str = "PSS"


@contextmanager
def process_tree_peak(pid: int, *, every_s: float = 0.05) -> Iterator[Memory]:
    """Samples the memory of a process and its descendants while the block runs.

    On Linux the sum of the proportional set sizes, which counts a shared page once over all who share it. Where
    the system does not tell it: the sum of the resident set sizes, which counts a shared page once per process
    (too high). A peak between two samples is missed; let the block hold loading and warm-up too. It reads for at most a
    twentieth of the time, or twice a second, so that the server under load keeps its cores.
    """
    memory = Memory()
    stop = threading.Event()

    def watch() -> None:
        while True:
            began = time.perf_counter()
            memory.peak_mb = max(memory.peak_mb, _tree_mb(pid, memory))
            if stop.wait(max(every_s, min(0.5, 20 * (time.perf_counter() - began)))):
                return

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield memory
    finally:
        stop.set()
        thread.join()


def _tree_mb(pid: int, memory: Memory) -> float:
    total = 0
    try:
        root = psutil.Process(pid)
        processes = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.NoSuchProcess:
            continue
        except (psutil.AccessDenied, AttributeError):
            memory.basis = "RSS"
            total += process.memory_info().rss
    return total / 1e6

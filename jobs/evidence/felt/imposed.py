"""What a small target has, really imposed on the process that serves for it: its cores, and its memory.

Cores by affinity, which the processes that it starts inherit; memory by a control group of its own (version 2's
`memory.max`, or version 1's `memory.limit_in_bytes`), where this system lets us make one. What could not be imposed is
said, so that a figure never claims a limit that was not there.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from deshi.serve.kpi import Target

GROUPS = Path("/sys/fs/cgroup")
LIMITS = ("memory.max", "memory.limit_in_bytes")  # version 2, version 1


@dataclass(frozen=True, kw_only=True)
class Imposed:
    """How many cores (None: all there are) and megabytes (None: no limit) the process was held to."""

    cores: int | None
    memory_mb: float | None

    @property
    def words(self) -> str:
        """`held to 1 core and 512 MB`, for the record of a figure; empty where nothing was held."""
        held = [f"{self.cores} core(s)"] if self.cores else []
        held += [f"{self.memory_mb:.0f} MB"] if self.memory_mb else []
        return f"held to {' and '.join(held)}" if held else ""


@contextlib.contextmanager
def imposed(pid: int, target: Target | None, *, memory: bool = True) -> Iterator[Imposed]:
    """Holds a process that was just started, and all that it will start, to the target's threads and memory.

    Args:
        pid: of the process, before it has children.
        target: None holds it to nothing.
        memory: False lifts the limit of memory, to see how much it takes.
    """
    if target is None:
        yield Imposed(cores=None, memory_mb=None)
        return
    group = _group(pid, target.memory_mb) if memory and target.memory_mb is not None else None
    try:
        yield Imposed(cores=_cores(pid, target.threads), memory_mb=target.memory_mb if group else None)
    finally:
        if group is not None:
            _removed(group)


def _cores(pid: int, threads: int) -> int | None:
    there = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if threads >= len(there):
        return None
    try:
        psutil.Process(pid).cpu_affinity(there[-threads:])  # the last ones: interrupts are mostly served by the first
    except (psutil.Error, OSError):
        return None
    return threads


def _group(pid: int, memory_mb: float) -> Path | None:
    """A new control group with the process in it, or None where we may not make one."""
    for own in _own_groups():
        group = own / f"deshi-{pid}"
        try:
            group.mkdir()
            limit = next((group / name for name in LIMITS if (group / name).exists()), None)
            if limit is None:
                group.rmdir()
                continue
            limit.write_text(str(int(memory_mb * 1e6)))
            with contextlib.suppress(OSError):  # swapping would hide that it does not fit
                (group / "memory.swap.max").write_text("0")
            (group / "cgroup.procs").write_text(str(pid))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        return group
    return None


def _own_groups() -> Iterator[Path]:
    """Where a group of ours could lie: this process's own, in version 1's memory hierarchy or in version 2's."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if "memory" in controllers.split(","):
            yield GROUPS / "memory" / path.lstrip("/")
        elif controllers == "":
            yield GROUPS / path.lstrip("/")


def _removed(group: Path) -> None:
    """The kernel lets go of a group only when its last process has: those are ours, and told to stop."""
    with contextlib.suppress(OSError):
        for pid in (group / "cgroup.procs").read_text(encoding="utf-8").split():
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(int(pid))
                process.kill()
                process.wait(timeout=5)
    with contextlib.suppress(OSError):
        group.rmdir()

"""Contenders for one piece of work: prepared, held to the exact answer, timed in the same rounds.

A contender is asked for its calls, one for each copy of its inputs. It does not take part if it is not here, if it
fails, or if its answer is further off than its number formats explain; the reason stands in its place in the table. Our
own failure is a bug, and raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from deshi.kernels.proof.work import Work
from deshi.kernels.speed.timing import Call, Stopwatch, interleaved, on_device

OURS = "deshi"


class NotHere(Exception):
    """A contender that does not run here, with the reason."""


@dataclass(frozen=True)
class Entry:
    """What a contender brings: its calls, and the answer of one of them as a float tensor."""

    calls: Sequence[Call]
    value: Callable[[object], Tensor]


Contender = Callable[[], Entry]
Timer = Callable[[Sequence[Call]], tuple[Stopwatch, bool]]


@dataclass(frozen=True, kw_only=True)
class Measured:
    """The contenders of one kernel at one shape."""

    work: Work
    seconds: Mapping[str, Sequence[float]]  # contender -> seconds a call in every round
    not_run: Mapping[str, str] = field(default_factory=dict)  # contender -> reason
    launched: frozenset[str] = frozenset()  # contenders timed launch by launch, not as a graph
    shape: tuple[int, int, int] | None = None  # rows, columns, inner of a product
    peaks: Mapping[str, float] = field(default_factory=dict)  # contender -> bytes of memory above its inputs


def contest(
    work: Work,
    contenders: Mapping[str, Contender],
    exact: Tensor,
    tolerance: float,
    *,
    rounds: int,
    timer: Timer = on_device,
    shape: tuple[int, int, int] | None = None,
    peak: Callable[[Call], float] | None = None,
) -> Measured:
    """Times those that give the exact answer within a relative error; with `peak`, their memory too."""
    stopwatches: dict[str, Stopwatch] = {}
    not_run: dict[str, str] = {}
    peaks: dict[str, float] = {}
    launched = set()
    for name, contender in contenders.items():
        try:
            entry = contender()
            error = relative_error(entry.value(entry.calls[0]()), exact)
            if not error <= tolerance:
                raise NotHere(f"its answer is {error:.3g} off, and {tolerance} is what its formats explain")
            if peak is not None:
                peaks[name] = peak(entry.calls[0])
            stopwatches[name], captured = timer(entry.calls)
        except Exception as error:
            if name == OURS and not isinstance(error, NotHere):
                raise
            not_run[name] = reason(error)
            continue
        if not captured:
            launched.add(name)
    return Measured(
        work=work,
        seconds=interleaved(stopwatches, rounds),
        not_run=not_run,
        launched=frozenset(launched),
        shape=shape,
        peaks=peaks,
    )


def as_tensor(told: object) -> Tensor:
    """An answer that is a tensor as it stands."""
    if not isinstance(told, Tensor):
        raise NotHere(f"its answer is a {type(told).__name__} and no tensor")
    return told


def reason(error: Exception) -> str:
    """Why something did not run, in one line."""
    line = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return line if isinstance(error, NotHere) else f"{type(error).__name__}: {line}"


def relative_error(got: Tensor, exact: Tensor) -> float:
    """In the Frobenius norm."""
    return float((got.float() - exact.float()).norm() / exact.float().norm())


def cuda_device(command: str) -> torch.device:
    """The present CUDA device.

    Raises:
        ValueError: if there is none.
    """
    if not torch.cuda.is_available():
        raise ValueError(
            f"no CUDA device is present, and kernels are measured on one; run deshi {command} kernels on a machine "
            "with an NVIDIA GPU and its driver (make kernels-report needs none)"
        )
    return torch.device("cuda", torch.cuda.current_device())


def chosen(only: str | None, kernels: Mapping[str, object]) -> tuple[str, ...]:
    """All kernels, or the one that was asked for.

    Raises:
        ValueError: if it is none of them.
    """
    if only is not None and only not in kernels:
        raise ValueError(f"--only {only} is no kernel; take one of {', '.join(kernels)}")
    return tuple(kernels) if only is None else (only,)

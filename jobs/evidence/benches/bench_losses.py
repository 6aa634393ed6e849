"""`make bench-losses`: losses over a vocabulary, in memory and time, beside plain torch.

2,048 tokens, v = 49,152, d = 576, float32, two threads: the forward KL from an online teacher, forward and backward,
written with plain operations, through deshi's head, and through liger-kernel's chunked LigerFusedLinearJSDLoss at
beta 0, which is the forward KL, eager and compiled; beside them cross-entropy and cached top-k answers. Each contender
is a process of its own that takes one step when asked, so steps of all are interleaved in one window, in turns that
start with another each time, and each has a peak of its own. Reported are the fastest step of each, as other work on a
machine only ever adds time, and the median over rounds of the ratio to the plain step of the same round. Its peak is
that of the process (VmHWM) over what it held when its inputs were made and a small step had been taken; the gradients
are part of it. The last line is one JSON object `{"figures": [...]}`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from deshi.jobs.evidence.benches.bench import show
from deshi.kernels.figures import figure, print_figures

if TYPE_CHECKING:
    from torch import Tensor

TOKENS, VOCABULARY, WIDTH, THREADS, LISTED = 2048, 49152, 576, 2, 24
MEMORY_BAR, TIME_BAR = 0.25, 1.0
PLAIN, OURS = "KL, plain torch", "KL, deshi"
PLAIN_CE, OURS_CE, OURS_TOPK = "cross-entropy, plain torch", "cross-entropy, deshi", "top-24 KL + cross-entropy, deshi"


def main() -> None:
    """Prints the table and the figures, or, given a contender's name, is that contender."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=7)
    asked.add_argument("--contender", help=argparse.SUPPRESS)
    told = asked.parse_args()
    if told.contender is not None:
        contend(CONTENDERS[told.contender])
        return
    seconds, peaks = race(tuple(CONTENDERS), told.rounds)
    report(seconds, peaks)


def race(names: tuple[str, ...], rounds: int) -> tuple[dict[str, list[float]], dict[str, float]]:
    """Seconds of every step, and the peak in MB (10^6 bytes) above the base, of each contender."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(THREADS)}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    with ExitStack() as stack:
        processes = {}
        for name in names:
            command = [sys.executable, "-m", "deshi.jobs.evidence.benches.bench_losses", "--contender", name]
            processes[name] = stack.enter_context(
                subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            )
            _answer(processes[name], name)  # inputs made, small step taken
        for turn in range(rounds + 1):
            first = turn % len(names)
            for name in names[first:] + names[:first]:
                taken = _ask(processes[name], name)
                if turn:  # the first, full-sized step compiles and faults memory in
                    seconds[name].append(taken)
        peaks = {}
        for name, process in processes.items():
            assert process.stdin is not None
            process.stdin.close()
            peaks[name] = _answer(process, name)
    return seconds, peaks


def contend(step: Callable[[dict[str, Tensor]], Tensor]) -> None:
    """Takes one step for every line that comes in, and says how long it took; at the end, its peak."""
    import torch

    torch.set_num_threads(THREADS)
    out: IO[str] = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    taken(step, inputs(torch, 8, 1000))
    given = inputs(torch, TOKENS, VOCABULARY)
    base = _status_mb("VmRSS")
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of start-up
    print(0.0, file=out)
    for _ in sys.stdin:
        print(taken(step, given), file=out)
    print(_status_mb("VmHWM") - base, file=out)


def taken(step: Callable[[dict[str, Tensor]], Tensor], given: dict[str, Tensor]) -> float:
    """Seconds of a forward and backward pass; the gradients are dropped afterwards."""
    began = time.perf_counter()
    step(given).backward()
    seconds = time.perf_counter() - began
    assert given["hidden"].grad is not None and given["head"].grad is not None
    given["hidden"].grad = given["head"].grad = None
    return seconds


def inputs(torch: Any, tokens: int, vocabulary: int) -> dict[str, Tensor]:
    """Random states and heads whose logits have a standard deviation of 2, and answers of the teacher's size."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator).mul_(scale)

    listed = torch.rand(tokens, vocabulary // 8, generator=generator).topk(LISTED).indices * 8
    log_probs = normal(tokens, LISTED + 1).log_softmax(dim=-1)
    return {
        "hidden": normal(tokens, WIDTH).requires_grad_(),
        "head": normal(vocabulary, WIDTH, scale=2 / WIDTH**0.5).requires_grad_(),
        "teacher_hidden": normal(tokens, WIDTH),
        "teacher_head": normal(vocabulary, WIDTH, scale=2 / WIDTH**0.5),
        "labels": torch.randint(0, vocabulary, (tokens,), generator=generator),
        "ids": listed,
        "log_probs": log_probs[:, :-1].contiguous(),
        "log_tail": log_probs[:, -1].contiguous(),
    }


def plain_kl(given: dict[str, Tensor]) -> Tensor:
    """The formula as anyone would write it first."""
    from torch.nn import functional

    log_q = functional.log_softmax(given["hidden"] @ given["head"].t(), dim=-1)
    log_p = functional.log_softmax(given["teacher_hidden"] @ given["teacher_head"].t(), dim=-1)
    return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)


def our_kl(given: dict[str, Tensor]) -> Tensor:
    """deshi, full vocabulary."""
    from deshi.kernels.kd_loss import TeacherHead, kd_loss

    target = TeacherHead(given["teacher_hidden"], given["teacher_head"])
    return kd_loss(given["hidden"], given["head"], target, kind="forward_kl", temperature=1.0, alpha=0.0).total


def liger_kl(given: dict[str, Tensor], *, compiled: bool) -> Tensor:
    """liger-kernel's chunked distillation at its own chunk size; beta 0 is KL(teacher || student)."""
    from liger_kernel.chunked_loss import LigerFusedLinearJSDLoss

    loss = LigerFusedLinearJSDLoss(weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled)
    names = ("hidden", "head", "teacher_hidden", "teacher_head", "labels")
    total: Tensor = loss(*(given[name] for name in names))
    return total


def plain_ce(given: dict[str, Tensor]) -> Tensor:
    """Cross-entropy of all logits."""
    from torch.nn import functional

    return functional.cross_entropy(given["hidden"] @ given["head"].t(), given["labels"])


def our_ce(given: dict[str, Tensor]) -> Tensor:
    """deshi, cross-entropy alone."""
    from deshi.kernels.through_head import sequence_cross_entropy

    return sequence_cross_entropy(given["hidden"], given["head"], given["labels"])


def our_topk(given: dict[str, Tensor]) -> Tensor:
    """deshi, cached answers and cross-entropy in one pass."""
    from deshi.kernels.kd_loss import TopK, kd_loss

    return kd_loss(
        given["hidden"],
        given["head"],
        TopK(given["ids"], given["log_probs"], given["log_tail"]),
        kind="forward_kl",
        temperature=1.0,
        alpha=0.0,
        labels=given["labels"],
        ce_weight=0.5,
    ).total


CONTENDERS: dict[str, Callable[[dict[str, Tensor]], Tensor]] = {
    PLAIN: plain_kl,
    OURS: our_kl,
    "KL, liger-kernel, eager": partial(liger_kl, compiled=False),
    "KL, liger-kernel, compiled": partial(liger_kl, compiled=True),
    PLAIN_CE: plain_ce,
    OURS_CE: our_ce,
    OURS_TOPK: our_topk,
}


def report(seconds: dict[str, list[float]], peaks: dict[str, float]) -> None:
    """The table, then the figures."""
    rows, figures = [], []
    for name in seconds:
        base = PLAIN_CE if name in (PLAIN_CE, OURS_CE, OURS_TOPK) else PLAIN
        time_ratio = over(seconds, name, base)
        memory_ratio = peaks[name] / peaks[base]
        fastest, median = min(seconds[name]), statistics.median(seconds[name])
        rows.append(
            (
                name,
                f"{fastest:.2f}",
                f"{median:.2f}",
                f"{time_ratio:.2f}x",
                f"{peaks[name]:.0f}",
                f"{memory_ratio:.2f}x",
            )
        )
        if name in (PLAIN, PLAIN_CE):
            continue
        bars = (MEMORY_BAR, TIME_BAR) if name == OURS else (None, None)
        figures.append(figure(f"peak over plain, {name}", memory_ratio, "ratio", bar=bars[0], at_least=False))
        figures.append(figure(f"time over plain, {name}", time_ratio, "ratio", bar=bars[1], at_least=False))
    for name in (OURS, OURS_TOPK):
        other = "KL, liger-kernel, eager" if name == OURS else OURS_CE
        figures.append(figure(f"time of {name}, over {other}", over(seconds, name, other), "ratio"))
    show(
        f"{TOKENS} tokens, v = {VOCABULARY}, d = {WIDTH}, float32, {THREADS} threads; ratios to plain torch",
        ("loss and gradients", "s, fastest", "s, median", "time", "peak MB", "peak"),
        rows,
    )
    print_figures(figures)


def over(seconds: dict[str, list[float]], name: str, other: str) -> float:
    """The median over rounds of one's step over the other's of the same round."""
    return statistics.median(mine / base for mine, base in zip(seconds[name], seconds[other], strict=True))


def _ask(process: subprocess.Popen[str], name: str) -> float:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return _answer(process, name)


def _answer(process: subprocess.Popen[str], name: str) -> float:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError(f"the process of '{name}' ended without an answer; its own message stands above")
    return float(line)


def _status_mb(entry: str) -> float:
    """A line of this process's status, which is in units of 1,024 bytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{entry}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"the system tells no {entry}; run this bench on Linux")


if __name__ == "__main__":
    main()

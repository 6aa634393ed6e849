"""The distillation loss beside Liger's: a step is the loss and its gradients to states and head, in bfloat16.

    deshi                         kd_loss.py, forward KL from an online teacher
    Liger, chunked                LigerFusedLinearJSDLoss at beta 0, which is the forward KL; eager and compiled
    Liger, Triton                 LigerFusedLinearJSD at beta 0
    torch, whole logits           the formula as anyone would write it first

Peak memory is what the allocator held at most during a step beyond
what it held before, gradients included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from deshi.kernels.kd_loss import TeacherHead, kd_loss
from deshi.kernels.proof.work import STUDENT, TEACHER, VOCABULARY
from deshi.kernels.speed.contest import OURS, Contender, Entry, as_tensor
from deshi.kernels.speed.peers import library

Loss = Callable[[], Tensor]
LIGER = CHUNKED, CHUNKED_COMPILED, TRITON = "Liger, chunked", "Liger, chunked, compiled", "Liger, Triton"


@dataclass(frozen=True)
class Inputs:
    """States and heads of both models at the same tokens, and labels."""

    hidden: Tensor
    head: Tensor
    teacher_hidden: Tensor
    teacher_head: Tensor
    labels: Tensor


def inputs(
    tokens: int,
    device: torch.device,
    *,
    vocabulary: int = VOCABULARY,
    student: int = STUDENT,
    teacher: int = TEACHER,
    dtype: torch.dtype = torch.bfloat16,
) -> Inputs:
    """Random ones, whose logits have a standard deviation of 2."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, device=device, generator=generator).mul_(scale).to(dtype)

    return Inputs(
        hidden=normal(tokens, student).requires_grad_(),
        head=normal(vocabulary, student, scale=2 * student**-0.5).requires_grad_(),
        teacher_hidden=normal(tokens, teacher),
        teacher_head=normal(vocabulary, teacher, scale=2 * teacher**-0.5),
        labels=torch.randint(0, vocabulary, (tokens,), device=device, generator=generator),
    )


def ours(given: Inputs) -> Loss:
    """deshi."""
    target = TeacherHead(given.teacher_hidden, given.teacher_head)
    return lambda: kd_loss(given.hidden, given.head, target, kind="forward_kl", temperature=1.0, alpha=0.0).total


def liger_chunked(given: Inputs, *, compiled: bool) -> Loss:
    """Liger's chunks of plain operations."""
    module = library("liger_kernel.chunked_loss").LigerFusedLinearJSDLoss(
        weight_hard_loss=0.0, weight_soft_loss=1.0, beta=0.0, compiled=compiled
    )
    return lambda: module(given.hidden, given.head, given.teacher_hidden, given.teacher_head, given.labels)


def liger_triton(given: Inputs) -> Loss:
    """Liger's chunks through its Triton kernel."""
    module = library("liger_kernel.transformers.fused_linear_jsd").LigerFusedLinearJSD(jsd_beta=0.0)
    return lambda: module(given.hidden, given.head, given.teacher_hidden, given.teacher_head, None)


def torch_whole(given: Inputs) -> Loss:
    """Logits of all tokens at once, in float32 from the softmax on."""

    def loss() -> Tensor:
        log_q = functional.log_softmax(functional.linear(given.hidden, given.head).float(), dim=-1)
        log_p = functional.log_softmax(functional.linear(given.teacher_hidden, given.teacher_head).float(), dim=-1)
        return functional.kl_div(log_q, log_p, reduction="batchmean", log_target=True)

    return loss


LOSSES: dict[str, Callable[[Inputs], Loss]] = {
    OURS: ours,
    CHUNKED: lambda given: liger_chunked(given, compiled=False),
    CHUNKED_COMPILED: lambda given: liger_chunked(given, compiled=True),
    TRITON: liger_triton,
    "torch, whole logits": torch_whole,
}


def contenders(given: Inputs) -> dict[str, Contender]:
    """All of them; what is compared is the loss."""

    def entry(make: Callable[[Inputs], Loss]) -> Entry:
        loss = make(given)

        def step() -> Tensor:
            value = loss()
            value.backward()
            given.hidden.grad = given.head.grad = None
            return value.detach()

        return Entry([step], as_tensor)

    return {name: partial(entry, make) for name, make in LOSSES.items()}


def exact(given: Inputs, *, rows: int = 128) -> Tensor:
    """The loss in float32, some tokens at a time."""
    total = given.hidden.new_zeros((), dtype=torch.float32)
    with torch.no_grad():
        for start in range(0, len(given.hidden), rows):
            tokens = slice(start, start + rows)
            log_q = functional.log_softmax((given.hidden[tokens] @ given.head.t()).float(), dim=-1)
            log_p = functional.log_softmax((given.teacher_hidden[tokens] @ given.teacher_head.t()).float(), dim=-1)
            total += functional.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return total / len(given.hidden)


def peak_bytes(work: Callable[[], object]) -> float:
    """Of the CUDA allocator, above what it holds now."""
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return float(torch.cuda.max_memory_allocated() - base)

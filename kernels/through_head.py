"""A language-model head and a loss in one pass over the tokens, without the table [tokens, vocabulary].

n target tokens with hidden states h [n, d] meet the head W [v, d]; their logits h W^T are n v numbers, 400 MB in
float32 at 2,048 tokens and v = 49,152, and a divergence written with plain operations holds several such tables. Here
the tokens pass in chunks: a chunk's logits are computed, held against what is to be learned, and overwritten by the
loss's gradient z in them, from which z W goes to h and z^T h is summed into W's gradient at once, as in liger-kernel
(Hsu et al. 2024, arXiv 2410.10989). No logit is computed twice, so no time is paid for the memory:

    a chunk     at most CHUNK numbers, so its tokens are fewer the larger the vocabulary; the buffer is reused
    a block     some rows of a chunk, small enough for the processor's cache; all softmaxes work on blocks

Half precision keeps its logits and their gradients in half precision for the matrix products, as a model's own head
does; softmaxes, sums over chunks and the losses are float32 or better. All losses are means over the tokens, in nats.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

# Numbers in a chunk and in a block: on a CPU 341 tokens of v = 49,152, enough for matrix products at full speed, and
# ten rows of it, which lie in the cache. A GPU wants few large launches; its sizes are chosen, not measured.
CHUNK = {"cpu": 2**24, "cuda": 2**26}
BLOCK = {"cpu": 2**19, "cuda": 2**24}
# On a GPU each token's logits begin at a multiple of 16 numbers, whatever the vocabulary: matrix products need that for
# the tensor cores, and the judges for 128-bit loads.
ALIGNED = {"cpu": 1, "cuda": 16}


class Mixed(NamedTuple):
    """The loss to descend, and its two parts unweighted and without gradient, for the curves."""

    total: Tensor
    divergence: Tensor
    cross_entropy: Tensor


class Judge(Protocol):
    """Holds a chunk against what is to be learned.

    It gets the student's logits [c, v] and the positions of their tokens, gives the sums over these of divergence and
    of cross-entropy [2], and overwrites the logits with the gradient of the two's weighted sum.
    """

    def __call__(self, logits: Tensor, tokens: slice) -> Tensor: ...


def through_head(
    hidden: Tensor, head: Tensor, size: int, judge: Judge, *, distil_weight: float, ce_weight: float
) -> Mixed:
    """Sends hidden [n, d] through the first `size` rows of head [v, d], chunk by chunk, past the judge."""
    divergence_and_ce = _ThroughHead.apply(hidden, head, size, judge, distil_weight, ce_weight, torch.is_grad_enabled())
    return Mixed(*divergence_and_ce)


class _ThroughHead(torch.autograd.Function):
    """The gradients are made in the forward pass and only scaled in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        size: int,
        judge: Judge,
        distil_weight: float,
        ce_weight: float,
        want_gradient: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        dtype = at_least_float32(head)
        for_hidden, for_head = (want_gradient and needed for needed in ctx.needs_input_grad[:2])
        rows, n = head[:size], len(hidden)
        most = chunk_tokens(hidden.device, size)
        step = math.ceil(n / max(1, math.ceil(n / most)))  # even chunks: a last one of few tokens costs as much
        buffer = room(hidden, step, size)
        grad_hidden = torch.empty_like(hidden) if for_hidden else None
        grad_head = torch.zeros_like(head, dtype=dtype) if for_head else None
        sums = torch.zeros(2, dtype=dtype, device=hidden.device)
        for start in range(0, n, step or 1):
            tokens = slice(start, min(start + step, n))
            logits = torch.mm(hidden[tokens], rows.t(), out=buffer[: tokens.stop - start])
            sums += judge(logits, tokens)
            if grad_hidden is not None:
                torch.mm(logits, rows, out=grad_hidden[tokens])
            if grad_head is None:
                continue
            if head.dtype == dtype:
                grad_head[:size].addmm_(logits.t(), hidden[tokens])
            else:  # a product in half precision is added in float32
                grad_head[:size] += logits.t() @ hidden[tokens]
        divergence, cross_entropy = sums[0] / max(n, 1), sums[1] / max(n, 1)
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.n, ctx.dtype = max(n, 1), head.dtype
        ctx.mark_non_differentiable(divergence, cross_entropy)
        return distil_weight * divergence + ce_weight * cross_entropy, divergence, cross_entropy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        # In place: at a small model's head a copy would be the largest tensor of the step. Autograd's version counter
        # refuses a second backward pass over the same graph, which would scale twice.
        scale = of_total / ctx.n
        gradients = [None if kept is None else kept.mul_(scale).to(ctx.dtype) for kept in ctx.saved_tensors]
        return *gradients, None, None, None, None, None


def sequence_cross_entropy(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
    """Mean of -log q(label) over the tokens: what the control without a teacher is trained with."""
    check(hidden, head, labels, 1.0)
    dtype = at_least_float32(head)

    def judge(logits: Tensor, tokens: slice) -> Tensor:
        sums = logits.new_zeros(2, dtype=dtype)
        for rows in blocks(logits):
            log_q, at = functional.log_softmax(logits[rows].to(dtype), dim=-1), labels[tokens][rows, None].long()
            sums[1] -= log_q.gather(1, at).sum()
            gradient = log_q.exp_()
            gradient.scatter_add_(1, at, gradient.new_full(at.shape, -1.0))
            logits[rows] = gradient
        return sums

    return through_head(hidden, head, len(head), judge, distil_weight=0.0, ce_weight=1.0).total


def chunk_tokens(device: torch.device, size: int) -> int:
    """The tokens of a chunk over `size` vocabulary rows."""
    return max(1, CHUNK.get(device.type, CHUNK["cuda"]) // size)


def room(like: Tensor, tokens: int, size: int) -> Tensor:
    """Memory for logits [tokens, size], in the type and on the device of `like`."""
    multiple = ALIGNED.get(like.device.type, ALIGNED["cuda"])
    return like.new_empty(tokens, -(-size // multiple) * multiple)[:, :size]


def blocks(logits: Tensor) -> Iterator[slice]:
    """The rows of logits [c, v], a block at a time."""
    step = max(1, BLOCK.get(logits.device.type, BLOCK["cuda"]) // logits.shape[1])
    return (slice(start, start + step) for start in range(0, len(logits), step))


def check(hidden: Tensor, head: Tensor, labels: Tensor | None, ce_weight: float) -> None:
    """Refuses shapes, types and weights that do not belong together."""
    if not (hidden.ndim == 2 and head.ndim == 2 and hidden.shape[1] == head.shape[1]):
        raise ValueError(
            f"hidden states {tuple(hidden.shape)} and head {tuple(head.shape)} must be [tokens, width] and "
            "[vocabulary, width] of one width; select the target tokens first"
        )
    if hidden.dtype != head.dtype:
        raise ValueError(f"hidden states in {hidden.dtype} do not fit a head in {head.dtype}; cast one")
    if labels is not None and labels.shape != hidden.shape[:1]:
        raise ValueError(
            f"labels {tuple(labels.shape) if labels is not None else ()} must be one for each of {len(hidden)} tokens"
        )
    if labels is None and ce_weight:
        raise ValueError(f"ce_weight {ce_weight} needs labels; give them, or take ce_weight 0")


def at_least_float32(tensor: Tensor) -> torch.dtype:
    """The type of sums and softmaxes."""
    return torch.promote_types(tensor.dtype, torch.float32)

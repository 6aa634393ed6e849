"""What training costs, before a machine is rented: operations, memory of a rank, hours. Arithmetic only.

Operations (a multiply-add is two). Every token meets the matrices of the layers and attends to its whole row, only
targets meet the head (Kaplan et al. 2020, arXiv 2001.08361, table 1; PaLM, arXiv 2204.02311, appendix B):

    forward   = tokens x (2 x layer weights + 4 x layers x row length x heads x head size) + targets x 2 x head weights
    training  = 3 x forward, and the layers' forward once more where gradient checkpointing computes them again

Attention is counted over the whole row, as a mask over it is computed, causal or packed; rotations, norms, softmaxes
and the optimizer are left out, as in both papers.

Bytes of the model's states on a rank (ZeRO, Rajbhandari et al. 2020, arXiv 1910.02054, section 5): 16 a parameter with
Adam, as 2 + 2 + 12 (weights, gradients, float32 copy and moments) in half precision and 4 + 4 + 8 in float32. Stage 1
parts the last over the ranks, stage 2 the gradients too, stage 3 the weights too. The tensors alive in DeepSpeed 0.19
are these, and from stage 1 on, in float32 too, the copy: 12. DeepSpeed's own estimators say 4 bytes a parameter more at
stage 2 and 2 at stage 3, parted over the ranks. What they leave out is counted here: the bucket that gradients are
reduced in, and at stage 3 the modules that stay whole until `stage3_max_live_parameters` are.

Bytes of activations that a micro batch keeps for its backward pass (Korthikanti et al. 2022, arXiv 2205.05198), a token
and a layer, in half precision: hidden x (34 + 5 x heads x row length / hidden). 16 of the 34 are a feed-forward of four
times the width: 4 bytes a neuron. A gated one keeps 8: gate, up, activated gate, product. The last term is attention's
scores, which fused kernels do not keep. What autograd saves of transformers' Llama is this within 1% in float32 and
10% more in bf16, its norms being float32. With gradient checkpointing 2 x hidden a layer stay, and one layer's whole
while that layer is computed again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

STATES: dict[str, tuple[int, int, int]] = {"fp32": (4, 4, 8), "bf16": (2, 2, 12), "fp16": (2, 2, 12)}
STAGES = (0, 1, 2, 3)
GGUF_BYTES_A_WEIGHT = {"f16": 2.0, "q8_0": 34 / 32, "q4_0": 18 / 32}  # 32 weights and their scale


@dataclass(frozen=True, kw_only=True)
class Network:
    """What of a model decides its cost."""

    layers: int
    hidden: int
    heads: int
    head_dim: int
    ffn: int
    gated: bool  # the feed-forward is a product of two
    vocabulary: int
    parameters: int
    layer_weights: int  # of the matrices that every token meets
    head_weights: int  # of the matrices that only targets meet
    largest: int  # parameters of the largest single module


@dataclass(frozen=True, kw_only=True)
class Work:
    """What passes through a model: tokens computed (padding too), targets, and how long a row is."""

    tokens: float
    targets: float
    row_length: float


@dataclass(frozen=True, kw_only=True)
class Zero:
    """How DeepSpeed parts the states: the stage, 0 to 3, the ranks, and its buffers in numbers (not bytes)."""

    stage: int
    ranks: int
    bucket: float  # reduce_bucket_size
    buckets: int  # two where communication overlaps the backward pass
    live: float  # stage3_max_live_parameters


@dataclass(frozen=True, kw_only=True)
class RankMemory:
    """Bytes on one training rank, by what they are for."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float  # ZeRO's buckets, and what stage 3 has gathered
    activations: float
    loss: float  # chunks of logits, and the gradients of head and last hidden states
    teacher: float  # asked in the loop

    @property
    def total(self) -> float:
        """All of it."""
        return math.fsum(getattr(self, field.name) for field in fields(self))


def forward_flops(network: Network, work: Work) -> float:
    """Operations of one pass without gradients."""
    return _layers_flops(network, work) + work.targets * 2.0 * network.head_weights


def training_flops(network: Network, work: Work, *, recomputed: bool) -> float:
    """Operations of forward and backward pass; `recomputed` with gradient checkpointing."""
    return 3 * forward_flops(network, work) + (_layers_flops(network, work) if recomputed else 0.0)


def _layers_flops(network: Network, work: Work) -> float:
    attention = 4.0 * network.layers * work.row_length * network.heads * network.head_dim
    return work.tokens * (2.0 * network.layer_weights + attention)


def rank_memory(
    network: Network,
    zero: Zero,
    *,
    precision: str,
    micro_batch: Work,
    checkpointing: bool,
    scores_kept: bool,
    chunk: int,
    teacher: Network | None,
) -> RankMemory:
    """Bytes on each rank of a training run.

    Args:
        precision: a key of `STATES`.
        micro_batch: what a rank computes at once.
        scores_kept: whether attention keeps its scores, as unfused attention does.
        chunk: logits that exist at once (`through_head.CHUNK`); 0 where the head is no vocabulary.
        teacher: a second model that is asked in the loop, whole on every rank.
    """
    weights, gradients, optimizer = states(network.parameters, precision, zero)
    width = STATES[precision][0]
    buffers = float(width) * zero.bucket * zero.buckets if zero.stage else 0.0
    if zero.stage == 3:
        whole = min(float(network.parameters), max(zero.live, float(network.largest)))
        buffers += width * (whole + network.largest)  # the last gathered module has its gradient too
    loss = 0.0
    if chunk:
        logits = min(float(chunk), micro_batch.targets * network.vocabulary) * (1 if teacher is None else 2)
        # The head's gradient is summed in float32 over the chunks.
        loss = width * logits + 4.0 * network.head_weights + width * micro_batch.targets * network.hidden
    return RankMemory(
        weights=weights,
        gradients=gradients,
        optimizer=optimizer,
        buffers=buffers,
        activations=activation_bytes(
            network, micro_batch, width=width, checkpointing=checkpointing, scores_kept=scores_kept
        ),
        loss=loss,
        teacher=0.0 if teacher is None else width * float(teacher.parameters),
    )


def states(parameters: int, precision: str, zero: Zero) -> tuple[float, float, float]:
    """Bytes of weights, gradients and optimizer on a rank."""
    weights, gradients, optimizer = STATES[precision]
    if zero.stage and precision == "fp32":
        optimizer += 4  # DeepSpeed copies its part of the weights whatever their precision
    return (
        weights * parameters / (zero.ranks if zero.stage >= 3 else 1),
        gradients * parameters / (zero.ranks if zero.stage >= 2 else 1),
        optimizer * parameters / (zero.ranks if zero.stage >= 1 else 1),
    )


def activation_bytes(network: Network, work: Work, *, width: int, checkpointing: bool, scores_kept: bool) -> float:
    """Bytes that the layers keep for the backward pass of `work`; `width` is the bytes of a number."""
    scores = 5.0 * network.heads * work.row_length if scores_kept else 0.0
    layer = work.tokens * (18.0 * network.hidden + (8.0 if network.gated else 4.0) * network.ffn + scores)
    if checkpointing:
        layer += work.tokens * 2.0 * network.hidden * network.layers
    else:
        layer *= network.layers
    return layer * width / 2


def hours(flops: float, *, devices: float, tflops: float, utilisation: float) -> float:
    """Hours that `devices` take, each of `tflops` at its peak, of which `utilisation` is reached.

    Raises:
        ValueError: for a figure that no device has.
    """
    for name, value, most in (("tflops", tflops, math.inf), ("utilisation", utilisation, 1.0)):
        if not 0 < value <= most or math.isinf(value):
            rule = "above 0" if math.isinf(most) else "above 0 and at most 1"
            raise ValueError(f"{name} = {value} must be {rule}; give what one device is known to reach")
    return flops / (devices * tflops * 1e12 * utilisation) / 3600


def cached_bytes(vocabulary: int) -> int:
    """Bytes that a target's cached answer takes, k = 32 (`sequence_answers.py`).

    Measured on ChitChat with SmolLM2's 49,152 pieces; with their ids drawn anew from 128,256, which need a third byte,
    an answer takes 17 more.
    """
    return 104 if vocabulary <= 1 << 16 else 121


def machines(devices: float, *, per_machine: int) -> int:
    """Whole machines that hold `devices`."""
    return max(1, math.ceil(devices / per_machine - 1e-9))

"""A divergence from a teacher's logits, and its gradient written over the student's logits, a row at a time.

Student logits x and teacher logits y are [c, v]; with D and f as in divergences.py, at temperature T,

    values[r, 0] = T^2 D
    values[r, 1] = -log softmax(x)[label]
    x <- distil_weight T q (f - sum q f) + ce_weight (softmax(x) - onehot(label))

T and not T^2 stays in the gradient, since D has x / T. The kernel gives each row to a program and passes over it twice
for forward_kl, whose F = sum q f is -1, and else three times: for both logsumexps, for F, and for D and the gradient.
With e(l) of online_softmax.py, E = e(log q) + e(log p), w g the terms of D (weight p or q, times a logarithm), df what
f is off by (e(log p) |f| for forward_kl, E |f| for skew_kl, else E) and eps of the logits' type, float32 loses at most

    |values[r, 0] - exact| <= T^2 sum w (2 e(log w) |g| + E)          |values[r, 1] - exact| <= e(values[r, 1])
    |x - exact| <= distil_weight T (b + q sum b) + ce_weight 2 e(log softmax(x)) softmax(x) + eps |x|,
                   b = q (2 e(log q) (|f| + |F|) + df)

A label below 0 marks a row without cross-entropy. What is not finite in a row makes its values and its gradient NaN or
infinite, and no other row's; on a GPU so does a label beyond v.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from deshi.kernels.divergences import at_its_edge, check_settings, log_softmax, row_divergence, terms
from deshi.kernels.online_softmax import LOWEST, SIZES, exp, get, label_of, numbers, observe, put, settle, takes
from deshi.kernels.through_head import at_least_float32, blocks
from deshi.kernels.triton_or_none import jit, tl
from deshi.kernels.tuning import Config


@jit
def watch(
    x: tl.tensor,
    y: tl.tensor,
    n: tl.tensor,
    V: tl.tensor,
    seen: tl.tensor,
    scale: tl.tensor,
    TWICE: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """The first pass over one block. TWICE: a sum at temperature 1 too, for the label."""
    peak_x, mass_x, mass_1, peak_y, mass_y = seen
    student, teacher = get(x, n, V, MASKED), get(y, n, V, MASKED)
    if TWICE:
        _, mass_1 = observe(student, peak_x, mass_1, 1.0)
    peak_x, mass_x = observe(student, peak_x, mass_x, scale)
    peak_y, mass_y = observe(teacher, peak_y, mass_y, scale)
    return peak_x, mass_x, mass_1, peak_y, mass_y


@jit
def weigh(
    x: tl.tensor,
    y: tl.tensor,
    n: tl.tensor,
    V: tl.tensor,
    of_row: tl.tensor,
    label: tl.tensor,
    STORE: tl.constexpr,
    MASKED: tl.constexpr,
    KIND: tl.constexpr,
) -> tl.tensor:
    """A later pass over one block: the terms of sum q f, or with STORE those of D, and the gradient is written."""
    scale, top_x, log_x, top_y, log_y, alpha, rest, weight, mean = of_row
    student, teacher = get(x, n, V, MASKED), get(y, n, V, MASKED)
    log_q, log_p = (student - top_x) * scale - log_x, (teacher - top_y) * scale - log_y
    q, q_f, value = terms(log_q, log_p, alpha, rest, KIND)
    if not STORE:
        return tl.sum(q_f, 1)
    gradient = weight * (q_f - q * mean)
    if label is not None:
        at, log_1, ce_weight = label
        gradient += ce_weight * (exp(student - top_x - log_1) - tl.where(n == at, 1.0, 0.0))
    put(x, n, gradient, V, MASKED)
    return tl.sum(value, 1)


@jit
def divergence_kernel(
    student: tl.tensor,
    teacher: tl.tensor,
    labels: tl.tensor,
    values: tl.tensor,
    V: tl.tensor,
    student_stride: tl.tensor,
    teacher_stride: tl.tensor,
    temperature: tl.tensor,
    scale: tl.tensor,
    alpha: tl.tensor,
    rest: tl.tensor,
    distil_weight: tl.tensor,
    ce_weight: tl.tensor,
    KIND: tl.constexpr,
    PLAIN: tl.constexpr,
    BLOCK: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    """One row. `scale` is 1 / temperature; PLAIN: both are 1. A pass ends with a masked block, which is never empty."""
    row = tl.program_id(0).to(tl.int64)
    x, y = student + row * student_stride, teacher + row * teacher_stride
    full = (V - 1) // BLOCK
    TWICE: tl.constexpr = labels is not None and not PLAIN
    label = None
    if labels is not None:
        at, logit, ce_weight = label_of(labels, row, x, V, ce_weight)
    low = tl.full([BLOCK // WIDTH], LOWEST, tl.float32)
    none = tl.zeros([BLOCK // WIDTH], tl.float32)
    end = numbers(full * BLOCK, BLOCK, WIDTH)

    seen = (low, none, none, low, none)
    for step in range(0, full):
        seen = watch(x, y, numbers(step * BLOCK, BLOCK, WIDTH), V, seen, scale, TWICE, False)
    peak_x, mass_x, mass_1, peak_y, mass_y = watch(x, y, end, V, seen, scale, TWICE, True)
    top_x, log_x = settle(peak_x, mass_x, scale)
    top_y, log_y = settle(peak_y, mass_y, scale)
    if labels is not None:
        log_1 = log_x
        if TWICE:
            _, log_1 = settle(peak_x, mass_1, 1.0)
        label = (at, log_1, ce_weight)
        tl.store(values + 2 * row + 1, tl.where(ce_weight == 0.0, 0.0, log_1 - (logit - top_x) + 0.0 * ce_weight))

    weight = distil_weight * temperature
    mean = -1.0
    if KIND != "forward_kl":
        of_row = (scale, top_x, log_x, top_y, log_y, alpha, rest, weight, 0.0)
        lanes = none
        for step in range(0, full):
            lanes += weigh(x, y, numbers(step * BLOCK, BLOCK, WIDTH), V, of_row, None, False, False, KIND)
        mean = tl.sum(lanes + weigh(x, y, end, V, of_row, None, False, True, KIND), 0)

    of_row = (scale, top_x, log_x, top_y, log_y, alpha, rest, weight, mean)
    lanes = none
    for step in range(0, full):
        lanes += weigh(x, y, numbers(step * BLOCK, BLOCK, WIDTH), V, of_row, label, True, False, KIND)
    value = tl.sum(lanes + weigh(x, y, end, V, of_row, label, True, True, KIND), 0)
    tl.store(values + 2 * row, temperature * temperature * value)


def divergence_gradient_(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None = None,
    *,
    kind: str,
    temperature: float,
    alpha: float,
    distil_weight: float = 1.0,
    ce_weight: float = 0.0,
) -> Tensor:
    """values [c, 2] in float32 or better; student_logits [c, v] are overwritten by the gradient.

    Raises:
        ValueError: for settings, shapes, types or devices that do not belong together.
    """
    check_settings(kind, temperature, alpha)
    check_logits(student_logits, labels, ce_weight)
    if not (
        teacher_logits.shape == student_logits.shape
        and teacher_logits.is_floating_point()
        and teacher_logits.stride(1) == 1
    ):
        raise ValueError(
            f"teacher logits are {teacher_logits.dtype} {list(teacher_logits.shape)}, strides "
            f"{teacher_logits.stride()}; give floats of the student's shape {list(student_logits.shape)}, each row in "
            "one piece"
        )
    if teacher_logits.device != student_logits.device:
        raise ValueError(
            f"teacher logits are on {teacher_logits.device} and the student's on {student_logits.device}; move one"
        )
    labels = labels if ce_weight else None
    return _divergence_gradient(
        student_logits, teacher_logits, labels, kind, temperature, alpha, distil_weight, ce_weight
    )


def check_logits(logits: Tensor, labels: Tensor | None, ce_weight: float) -> None:
    """Refuses logits that cannot be overwritten row by row, and labels of other rows."""
    if not (logits.ndim == 2 and logits.is_floating_point() and logits.shape[1] > 0 and logits.stride(1) == 1):
        raise ValueError(
            f"student logits are {logits.dtype} {list(logits.shape)}, strides {logits.stride()}; give floats "
            "[tokens, vocabulary], each row in one piece"
        )
    if labels is None and ce_weight:
        raise ValueError(f"ce_weight {ce_weight} needs labels; give them, or take ce_weight 0")
    if labels is not None and not (
        labels.shape == logits.shape[:1] and not labels.is_floating_point() and labels.device == logits.device
    ):
        raise ValueError(
            f"labels are {labels.dtype} {list(labels.shape)} on {labels.device}; give integers [{len(logits)}] on "
            f"{logits.device}"
        )


def run_divergence(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    kind: str,
    temperature: float,
    alpha: float,
    distil_weight: float,
    ce_weight: float,
    config: Config,
) -> Tensor:
    """The kernel at these sizes."""
    values = student_logits.new_zeros(len(student_logits), 2, dtype=torch.float32)
    if len(values) == 0:
        return values
    divergence_kernel[(len(values),)](
        student_logits,
        teacher_logits,
        None if labels is None else labels.contiguous(),
        values,
        student_logits.shape[1],
        student_logits.stride(0),
        teacher_logits.stride(0),
        *numbers_of(temperature, alpha, distil_weight, ce_weight),
        PLAIN=temperature == 1,
        **sizes_of(student_logits, kind, alpha, config),
    )
    return values


def numbers_of(temperature: float, alpha: float, distil_weight: float, ce_weight: float) -> tuple[float, ...]:
    """What the loss kernels compute with: T, 1 / T, alpha, 1 - alpha and both weights."""
    return float(temperature), 1.0 / temperature, float(alpha), 1.0 - alpha, float(distil_weight), float(ce_weight)


def sizes_of(logits: Tensor, kind: str, alpha: float, config: Config) -> dict[str, Any]:
    """What they are compiled for."""
    return {
        "KIND": at_its_edge(kind, alpha),
        "BLOCK": config.block_n,
        "WIDTH": 16 // logits.element_size(),
        "num_warps": config.warps,
        "num_stages": config.stages,
    }


def reference(
    student_logits: Tensor,
    teacher_logits: Tensor,
    labels: Tensor | None,
    kind: str,
    temperature: float,
    alpha: float,
    distil_weight: float,
    ce_weight: float,
) -> Tensor:
    """The same in plain PyTorch, in blocks of rows that stay in the processor's cache."""
    dtype, divergence = at_least_float32(student_logits), row_divergence(kind, alpha)
    values = student_logits.new_zeros(len(student_logits), 2, dtype=dtype)
    for rows in blocks(student_logits):
        student = student_logits[rows].to(dtype)
        log_q = log_softmax(student, temperature)
        value, gradient = divergence(log_q, log_softmax(teacher_logits[rows].to(dtype), temperature))
        values[rows, 0] = temperature**2 * value
        gradient.mul_(distil_weight * temperature)
        if labels is not None:
            plain = log_q if temperature == 1 else log_softmax(student, 1.0)
            at, weight = labels_of(labels[rows], ce_weight, dtype)
            values[rows, 1] = -plain.gather(1, at).where(weight != 0, 0.0).squeeze(1)
            gradient.addcmul_(plain.exp_(), weight).scatter_add_(1, at, -weight)
        student_logits[rows] = gradient
    return values


def labels_of(labels: Tensor, ce_weight: float, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Labels [r, 1] that can be looked up, and the weights [r, 1] of their rows: 0 where there is none."""
    return labels.long().clamp(min=0)[:, None], (ce_weight * (labels >= 0).to(dtype))[:, None]


_divergence_gradient = torch.library.custom_op(
    "deshi::divergence_gradient_", reference, mutates_args=("student_logits",), device_types="cpu"
)


@_divergence_gradient.register_kernel("cuda")
def _(*given: Any) -> Tensor:
    return run_divergence(*(*given, SIZES)) if takes(*given[:2]) else reference(*given)


@_divergence_gradient.register_fake
def _(student: Tensor, *_: object) -> Tensor:
    return student.new_empty(len(student), 2, dtype=at_least_float32(student))

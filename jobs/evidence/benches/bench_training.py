"""What a training step of a language model takes: cached answers beside cross-entropy, packed rows beside padded ones.

Steps are forward, loss and backward on one machine, fp32, of the student's own loss functions and batches
(`sequence_batches.py`, `kd_loss.py`, `through_head.py`); no optimizer, no Ray. In each round every kind of step is
taken once on the same sequences, in an order drawn anew, and only times of the same round are divided:

    answers    the mixed loss of cached top-k answers and cross-entropy, packed rows
    text       cross-entropy alone, the same packed rows
    padded     as `answers`, the same sequences one a row, padded to the longest, with an attention mask

A round's sequences are those of a few rows of the packing of all, so that a row is as full as in a run. Packing gains
at most max_length over the mean length of the sequences as cut there. The losses of `answers` and `padded` must be
equal. The answers are the student's own: a step's time depends on their number alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deshi.jobs.data.packing import IGNORED, collate
from deshi.jobs.data.render import Sequences
from deshi.jobs.evidence.benches.bench import show
from deshi.jobs.stages.sequence_answers import TOP_K, pack, unpack
from deshi.jobs.stages.sequence_batches import PAD_ID, packed_rows
from deshi.kernels.figures import Figure, figure
from deshi.serve.statistics import ratio_of_medians_interval

if TYPE_CHECKING:
    from torch import Tensor

ANSWERS_BAR, PACKING_BAR, LOSS_BAR = 1.10, 1.6, 1e-5
ROUNDS, RESAMPLES = 4, 2000
Batch = dict[str, Any]


def training(
    model_folder: Path,
    sequences: Sequences,
    *,
    max_length: int,
    rows_per_step: int,
    rounds: int = ROUNDS,
    threads: int,
    confidence: float,
    seed: int,
) -> list[Figure]:
    """Times the steps of a model folder on sequences of its tokenizer; prints the table and gives the figures.

    Raises:
        ValueError: if the sequences fill fewer rows than one step takes.
    """
    import torch
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(threads)
    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32, trust_remote_code=False)
    rng = np.random.default_rng(seed)
    packed = packed_rows(sequences, max_length=max_length, packing=True, seed=seed)
    if len(packed) < rows_per_step:
        raise ValueError(f"{len(packed)} packed rows are fewer than the {rows_per_step} of a step; give more sequences")
    seconds: dict[str, list[float]] = {name: [] for name in STEPS}
    losses: dict[str, list[float]] = {name: [] for name in STEPS}
    tokens = []
    for turn in range(rounds + 1):
        picked = [packed[at] for at in rng.choice(len(packed), rows_per_step, replace=False)]
        batches = {"padded": padded(picked, sequences), "answers": together(picked, sequences)}
        batches["text"] = batches["answers"]
        answers = own_answers(model, picked, sequences)
        for at in rng.permutation(len(STEPS)):
            name = list(STEPS)[at]
            taken, loss = step(model, batches[name], answers, STEPS[name])
            if turn:  # the first round faults memory in
                seconds[name].append(taken)
                losses[name].append(loss)
        if turn:
            tokens.append(int(sum(sequences.lengths[list(row)].sum() for row in picked)))
    return report(seconds, losses, tokens, max_length=max_length, confidence=confidence, seed=seed)


def step(model: Any, batch: Batch, answers: tuple[Tensor, Tensor, Tensor], loss: Callable[..., Tensor]) -> Any:
    """Seconds of forward, loss and backward, and the loss."""
    began = time.perf_counter()
    labels = batch["labels"][:, 1:]
    told = model.get_decoder()(**batch["inputs"], use_cache=False).last_hidden_state[:, :-1][labels != IGNORED]
    value = loss(told, model.get_output_embeddings().weight, labels[labels != IGNORED], answers)
    value.backward()
    seconds = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return seconds, float(value.detach())


def _mixed(hidden: Tensor, head: Tensor, labels: Tensor, answers: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    from deshi.kernels.kd_loss import TopK, kd_loss

    settings: dict[str, Any] = {"kind": "forward_kl", "temperature": 1.0, "alpha": 0.0}
    return kd_loss(hidden, head, TopK(*answers), **settings, labels=labels, distil_weight=0.5, ce_weight=0.5).total


def _text(hidden: Tensor, head: Tensor, labels: Tensor, _: Any) -> Tensor:
    from deshi.kernels.through_head import sequence_cross_entropy

    return sequence_cross_entropy(hidden, head, labels)


STEPS: dict[str, Callable[..., Any]] = {"answers": _mixed, "text": _text, "padded": _mixed}


def together(rows: Sequence[Sequence[int]], sequences: Sequences) -> Batch:
    """Packed rows as a run trains on them."""
    made = collate(rows, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=PAD_ID)
    return {"inputs": {name: made[name] for name in ("input_ids", "position_ids")}, "labels": made["labels"]}


def padded(rows: Sequence[Sequence[int]], sequences: Sequences) -> Batch:
    """The same sequences in the same order, one a row, as a padding collator makes them."""
    import torch

    alone = [(sequence,) for row in rows for sequence in row]
    made = collate(alone, input_ids=sequences.input_ids, loss_mask=sequences.loss_mask, pad_id=PAD_ID)
    mask = (made["segment_ids"] >= 0).to(torch.int64)
    return {"inputs": {"input_ids": made["input_ids"], "attention_mask": mask}, "labels": made["labels"]}


def own_answers(model: Any, rows: Sequence[Sequence[int]], sequences: Sequences) -> tuple[Tensor, Tensor, Tensor]:
    """The model's own top k at the rows' targets, through the store's format."""
    import torch

    from deshi.jobs.stages.sequence_teacher import answer

    numbers = [sequence for row in rows for sequence in row]
    chosen = Sequences(
        input_ids=[sequences.input_ids[number] for number in numbers],
        loss_mask=[sequences.loss_mask[number] for number in numbers],
        cut=0,
    )
    vocabulary = len(model.get_output_embeddings().weight)
    most = int(chosen.lengths.max())
    made = answer(
        model, chosen, top_k=TOP_K, vocabulary=vocabulary, max_length=most, batch_rows=1, packing=False, pad_id=PAD_ID
    )
    ids, log_probs, tail = made
    table = pack("train", 0, chosen, ids=ids, log_probs=log_probs, tail=tail, vocabulary=vocabulary)
    ids, log_probs, tail = unpack(table).of(np.arange(len(numbers)))
    return torch.from_numpy(ids), torch.from_numpy(log_probs), torch.from_numpy(tail)


def report(
    seconds: dict[str, list[float]],
    losses: dict[str, list[float]],
    tokens: list[int],
    *,
    max_length: int,
    confidence: float,
    seed: int,
) -> list[Figure]:
    """The table, then the figures. `padded` over `answers` is a ratio of sums, as rounds hold other sequences."""
    dearer = ratio_of_medians_interval(seconds["answers"], seconds["text"], confidence=confidence, seed=seed)
    slow, fast = np.array(seconds["padded"]), np.array(seconds["answers"])
    draws = np.random.default_rng(seed).integers(0, len(fast), (RESAMPLES, len(fast)))
    ends = (0.5 - confidence / 2, 0.5 + confidence / 2)
    low, high = np.quantile(slow[draws].sum(axis=1) / fast[draws].sum(axis=1), ends)
    gain, apart = (
        float(slow.sum() / fast.sum()),
        float(np.max(np.abs(np.subtract(losses["padded"], losses["answers"])))),
    )
    cost, at = dearer.value, f"max_length {max_length}"
    show(
        f"A training step of {np.mean(tokens):.0f} real tokens, max_length {max_length}, {len(fast)} rounds",
        ("step", "s", "real tokens/s", "ratio", "interval"),
        [
            ("cross-entropy alone, packed", *_cells(seconds["text"], tokens), "1.00", ""),
            (
                "cached answers, packed",
                *_cells(seconds["answers"], tokens),
                f"{cost:.3f}",
                f"{dearer.low:.3f} to {dearer.high:.3f}",
            ),
            (
                "cached answers, padded",
                *_cells(seconds["padded"], tokens),
                f"{gain:.2f} times packed",
                f"{low:.2f} to {high:.2f}",
            ),
        ],
    )
    return [
        figure(f"step with cached answers over cross-entropy, {at}", cost, "ratio", bar=ANSWERS_BAR, at_least=False),
        figure(f"packed real tokens/s over padded, {at}", gain, "ratio", bar=PACKING_BAR),
        figure(f"packed loss minus padded, {at}", apart, "nats", bar=LOSS_BAR, at_least=False),
    ]


def _cells(seconds: list[float], tokens: list[int]) -> tuple[str, str]:
    return f"{np.median(seconds):.2f}", f"{np.sum(tokens) / np.sum(seconds):.0f}"

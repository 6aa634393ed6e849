"""Packing: several sequences in one row of at most `max_length` tokens, each computed as if it stood alone.

`plan(lengths)` is first-fit decreasing (Johnson 1973; at most 11/9 of the fewest rows, plus 6/9): longest first, each
into the first row with room. It depends on (lengths, max_length, seed) alone: the seed orders sequences of equal length
and shuffles the finished rows, which would otherwise come sorted by length.

`collate` turns rows of a plan into tensors, int64 [rows, longest rounded up to 8]:

- `input_ids`, and `labels`: the id where the token is a target, -100 elsewhere (labels are not shifted: the logits at
  t answer for the label at t + 1; the first token of a sequence is never a target, so none answers across a seam);
- `position_ids`: restart at 0 with each sequence. Called with these, without an attention mask and with
  `use_cache=False`, transformers builds a block-diagonal causal mask by itself: a query sees a key where no restart
  lies between. Padding restarts at every token, so that it sees itself only and nothing sees it;
- `segment_ids`: the sequence's number in its row, -1 for padding.

An architecture that does not build its mask so would let sequences read each other in silence: `refuse_leak` runs two
sequences packed and alone and compares.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from deshi.jobs.data.tokens import MULTIPLE

if TYPE_CHECKING:
    import torch

IGNORED = -100
# Of the logits' spread. What float32 rounds is far below, half precision rounds 2^-8 of a logit, a leak is far above.
LEAK_MOST, LEAK_MOST_HALF = 1e-3, 0.25


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Which sequences stand in which row; `rows[i]` holds their numbers, in order."""

    rows: tuple[tuple[int, ...], ...]
    tokens: int
    max_length: int

    @property
    def efficiency(self) -> float:
        """Real tokens over the tokens that the rows have room for."""
        return self.tokens / (len(self.rows) * self.max_length) if self.rows else 0.0


def plan(lengths: Sequence[int] | NDArray[np.int64], *, max_length: int, seed: int, packing: bool = True) -> Plan:
    """First-fit decreasing, or one sequence a row where `packing` is off.

    Raises:
        ValueError: for a sequence that no row can hold.
    """
    sizes = np.asarray(lengths, np.int64)
    if len(sizes) and int(sizes.max()) > max_length:
        at = int(sizes.argmax())
        raise ValueError(f"sequence {at} has {sizes[at]} tokens, a row holds {max_length}; cut it, or widen max_length")
    rng = np.random.default_rng([seed, 7])
    tied = rng.permutation(len(sizes))
    order = tied[np.argsort(-sizes[tied], kind="stable")]
    rows: list[list[int]] = []
    if packing:
        # For each room left over, the rows with exactly that room; `first[r]` is the first of them.
        waiting: list[list[int]] = [[] for _ in range(max_length + 1)]
        nowhere = np.iinfo(np.int64).max
        first = np.full(max_length + 1, nowhere, np.int64)
        for sequence in order.tolist():
            size = int(sizes[sequence])
            room = size + int(first[size:].argmin())
            if first[room] == nowhere:
                row, room = len(rows), max_length
                rows.append([])
            else:
                row = heapq.heappop(waiting[room])
                first[room] = waiting[room][0] if waiting[room] else nowhere
            rows[row].append(sequence)
            heapq.heappush(waiting[room - size], row)
            first[room - size] = waiting[room - size][0]
    else:
        rows = [[sequence] for sequence in order.tolist()]
    shuffled = rng.permutation(len(rows)).tolist()
    return Plan(rows=tuple(tuple(rows[at]) for at in shuffled), tokens=int(sizes.sum()), max_length=max_length)


def collate(
    rows: Sequence[Sequence[int]],
    *,
    input_ids: Sequence[NDArray[np.int32]],
    loss_mask: Sequence[NDArray[np.bool_]],
    pad_id: int,
) -> dict[str, torch.Tensor]:
    """The tensors of some rows of a plan, see the module's text; targets stand in the order of the rows' sequences."""
    import torch

    longest = max(1, *(sum(len(input_ids[sequence]) for sequence in row) for row in rows), 1)
    shape = (len(rows), -(-longest // MULTIPLE) * MULTIPLE)
    batch = {
        "input_ids": np.full(shape, pad_id, np.int64),
        "labels": np.full(shape, IGNORED, np.int64),
        "position_ids": np.zeros(shape, np.int64),
        "segment_ids": np.full(shape, -1, np.int64),
    }
    for number, row in enumerate(rows):
        at = 0
        for segment, sequence in enumerate(row):
            ids = input_ids[sequence]
            here = (number, slice(at, at + len(ids)))
            batch["input_ids"][here] = ids
            batch["labels"][here] = np.where(loss_mask[sequence], ids, IGNORED)
            batch["position_ids"][here] = np.arange(len(ids))
            batch["segment_ids"][here] = segment
            at += len(ids)
    return {name: torch.from_numpy(value) for name, value in batch.items()}


def refuse_leak(model: Any) -> None:
    """Refuses a model in which packed sequences read each other: logits of two sequences, packed and alone.

    Raises:
        ValueError: naming the architecture.
    """
    import torch

    device = next(model.parameters()).device
    drawn = torch.Generator().manual_seed(0)
    ids = torch.randint(0, model.config.get_text_config().vocab_size, (1, 12), generator=drawn).to(device)
    positions = torch.cat([torch.arange(5), torch.arange(7)])[None].to(device)
    training = model.training
    model.eval()
    with torch.inference_mode():
        packed = model(input_ids=ids, position_ids=positions, use_cache=False).logits[:, 5:].float()
        alone = model(input_ids=ids[:, 5:], position_ids=positions[:, 5:], use_cache=False).logits.float()
    model.train(training)
    spread = float(alone.std())
    most = float((packed - alone).abs().max())
    allowed = LEAK_MOST if next(model.parameters()).dtype == torch.float32 else LEAK_MOST_HALF
    if most > allowed * spread:
        raise ValueError(
            f"packed sequences read each other in the architecture {model.config.model_type!r} (logits differ by "
            f"{most:.2g}, {most / spread:.2g} of their spread); write packing: false"
        )

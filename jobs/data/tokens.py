"""Text to token ids, and which rows a training step sees: pure functions, no iterator and no RNG to save.

`batch_rows(step)` depends on (step, rows, batch_size, seed) alone: epoch e is a permutation drawn from (seed, e), the
epochs are laid end to end, and step s takes the rows s x batch_size onwards. Every row comes once an epoch, and a
resumed run sees the rows that the unbroken one would have seen. Token ids are ragged (one int32 array a text), and
batches are padded to a multiple of 8.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

MULTIPLE = 8  # tokens
CHARACTERS = 8  # a token; longer texts are cut before they are tokenised, see `tokenise`
MARGIN = 32  # tokens between the last one used and the cut
CHUNK = 1024  # texts tokenised at a time


class Tokens(NamedTuple):
    """The ids of each text, int32, and the id that pads them."""

    ids: list[NDArray[np.int32]]
    pad_id: int


def tokenise(folder: Path, texts: Sequence[str], *, max_length: int) -> Tokens:
    """The ids that the folder's tokenizer gives, special tokens included, at most `max_length` of them.

    Of a text of thousands of words only the beginning is used, so only the beginning is tokenised; where that does
    not give `MARGIN` tokens more than are used, the whole text is.
    """
    ids = [np.asarray(encoding.ids, np.int32) for encoding in _encodings(folder, texts, max_length)]
    return Tokens(ids=ids, pad_id=_pad_id(folder))


def truncated_share(folder: Path, texts: Sequence[str], *, max_length: int) -> float:
    """The share of texts that have more than `max_length` tokens."""
    cut = sum(bool(encoding.overflowing) for encoding in _encodings(folder, texts, max_length))
    return cut / len(texts) if len(texts) else 0.0


def batch_rows(step: int, *, rows: int, batch_size: int, seed: int) -> NDArray[np.int64]:
    """The row numbers of a step, int64 [batch_size]."""
    at = np.arange(step * batch_size, (step + 1) * batch_size)
    epochs = np.unique(at // rows)
    return np.concatenate([_epoch(seed, int(epoch), rows)[at[at // rows == epoch] % rows] for epoch in epochs])


def rank_share(batch: NDArray[np.int64], rank: int, world: int) -> NDArray[np.int64]:
    """The rows of one worker: every `world`-th, so that all have the same number."""
    if len(batch) % world:
        raise ValueError(f"a batch of {len(batch)} rows does not share evenly over {world} workers; use a multiple")
    return batch[rank::world]


def collate(ids: Sequence[NDArray[np.int32]], *, pad_id: int) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask`, int64 [rows, longest rounded up to 8]."""
    import torch

    longest = -(-max(1, *(len(row) for row in ids), 1) // MULTIPLE) * MULTIPLE
    input_ids = np.full((len(ids), longest), pad_id, np.int64)
    attention_mask = np.zeros_like(input_ids)
    for at, row in enumerate(ids):
        input_ids[at, : len(row)] = row
        attention_mask[at, : len(row)] = 1
    return {"input_ids": torch.from_numpy(input_ids), "attention_mask": torch.from_numpy(attention_mask)}


@lru_cache(maxsize=4)
def _epoch(seed: int, epoch: int, rows: int) -> NDArray[np.int64]:
    return np.random.default_rng([seed, epoch]).permutation(rows)


def _encodings(folder: Path, texts: Sequence[str], max_length: int) -> Iterator[Any]:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    most = CHARACTERS * max_length
    for start in range(0, len(texts), CHUNK):
        chunk = list(texts[start : start + CHUNK])
        for text, encoding in zip(chunk, tokenizer.encode_batch_fast([text[:most] for text in chunk]), strict=True):
            # The cut may change the last tokens before it, never those far ahead of it.
            spare = sum(len(rest.ids) for rest in encoding.overflowing)
            yield encoding if len(text) <= most or spare >= MARGIN else tokenizer.encode(text)


def _pad_id(folder: Path) -> int:
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    pad = config.get("pad_token_id")
    return int(pad) if pad is not None else 0

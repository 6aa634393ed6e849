"""Texts to token ids, by the `tokenizers` library alone: no transformers and no torch in a serving process.

The ids are those of stock `AutoTokenizer(text, truncation=True, max_length=...)`: the same tokenizer.json,
the same special tokens, cut at `max_length` with the special tokens counted. A test compares them.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deshi.serve.engines.engine import TokenBatch


class Encoder:
    """One tokenizer.json with a length limit. Thread-safe."""

    def __init__(self, tokenizer_json: Path, max_length: int, pad_id: int | None = None) -> None:
        """Opens the tokenizer; `pad_id` is read from the files beside it where none is given.

        Raises:
            ValueError: if there is no such tokenizer, or max_length leaves no room for text.
        """
        # A text is 0.1 ms of work: the library's thread pool only adds to that, and takes the engine's cores.
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
        from tokenizers import Tokenizer

        if not tokenizer_json.is_file():
            raise ValueError(
                f"{tokenizer_json} does not exist; save the fast tokenizer there (tokenizer.save_pretrained)"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer_json))
        except Exception as error:  # the library raises bare Exception
            raise ValueError(f"{tokenizer_json} is no tokenizer.json ({error}); save the tokenizer again") from None
        special = self._tokenizer.num_special_tokens_to_add(False)
        if max_length <= special:
            raise ValueError(f"max_length {max_length} leaves no room beside {special} special tokens; raise it")
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(max_length)
        self.max_length = max_length
        self.pad_id = _pad_id(tokenizer_json.parent, self._tokenizer) if pad_id is None else pad_id

    def encode(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of each text, special tokens in, at most `max_length` of them."""
        return [encoding.ids for encoding in self._tokenizer.encode_batch_fast(list(texts))]

    def truncated(self, texts: Sequence[str]) -> int:
        """How many of the texts are longer than `max_length` and are cut."""
        return sum(bool(encoding.overflowing) for encoding in self._tokenizer.encode_batch_fast(list(texts)))

    def pad(self, rows: Sequence[Sequence[int]]) -> TokenBatch:
        """The rows side by side, padded on the right to the longest."""
        lengths = np.fromiter((len(row) for row in rows), dtype=np.int64, count=len(rows))
        mask = np.arange(lengths.max(initial=1)) < lengths[:, None]
        ids = np.full(mask.shape, self.pad_id, dtype=np.int64)
        ids[mask] = np.fromiter((id for row in rows for id in row), dtype=np.int64, count=int(lengths.sum()))
        return TokenBatch(input_ids=ids, attention_mask=mask.astype(np.int64))


def _pad_id(folder: Path, tokenizer: Any) -> int:
    """The padding token's id by tokenizer_config.json, else by config.json, else 0: it is masked anyway."""
    token = _json(folder / "tokenizer_config.json").get("pad_token")
    token = token.get("content") if isinstance(token, dict) else token
    number = tokenizer.token_to_id(token) if isinstance(token, str) else None
    if number is None:
        number = _json(folder / "config.json").get("pad_token_id")
    return int(number) if number is not None else 0


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return content if isinstance(content, dict) else {}

"""A static student: the mean of its tokens' vectors, then one linear layer. No network, a few microseconds
a text.

The model folder is model2vec's own (Tulkens and van Dongen 2024): `embeddings` [vectors, dim] in
model.safetensors, optionally a `mapping` [vocabulary] of token ids to vectors and `weights` [vocabulary];
beside it head.safetensors with `weight` [labels, dim] and `bias` [labels]:

    logits = (mean over the tokens of weights[t] embeddings[mapping[t]]) weight^T + bias

Special and unknown tokens do not count, as in model2vec; a text without any other token has the mean 0.
"""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deshi.serve.engines.engine import EngineKind, TokenBatch
from deshi.serve.serving import MODEL_FOLDER

HEAD_FILE = "head.safetensors"


class StaticEngine:
    """The two matrices."""

    def __init__(
        self,
        *,
        embeddings: NDArray[Any],
        counts: NDArray[np.bool_],
        mapping: NDArray[Any] | None,
        token_weights: NDArray[Any] | None,
        normalize: bool,
        weight: NDArray[np.float32],
        bias: NDArray[np.float32],
    ) -> None:
        self._embeddings = embeddings
        self._counts = counts
        self._mapping = mapping
        self._token_weights = token_weights
        self._normalize = normalize
        self._weight = weight
        self._bias = bias

    def logits(self, batch: TokenBatch) -> NDArray[np.float32]:
        """See `Engine`."""
        ids = batch.input_ids
        counted = (self._counts[ids] & (batch.attention_mask != 0)).astype(np.float32)
        share = counted / np.maximum(counted.sum(axis=1, keepdims=True), 1.0)
        if self._token_weights is not None:
            share = share * self._token_weights[ids].astype(np.float32)
        vectors = self._embeddings[ids if self._mapping is None else self._mapping[ids]].astype(np.float32)
        pooled = np.matmul(share[:, None, :], vectors)[:, 0]
        if self._normalize:
            pooled = pooled / (np.linalg.norm(pooled, axis=1, keepdims=True) + 1e-32)
        return np.asarray(pooled @ self._weight.T + self._bias, dtype=np.float32)


def load(folder: Path, *, threads: int) -> StaticEngine:
    """Opens the model folder beside the builds, `<candidate>/model`. It has too little to do for threads."""
    from safetensors.numpy import load_file

    model = folder.parent.parent / MODEL_FOLDER
    tensors = load_file(model / "model.safetensors")
    head = load_file(model / HEAD_FILE)
    mapping = tensors.get("mapping")
    counts = np.ones(len(tensors["embeddings"] if mapping is None else mapping), dtype=np.bool_)
    counts[_ignored(json.loads((model / "tokenizer.json").read_text(encoding="utf-8")))] = False
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    return StaticEngine(
        embeddings=tensors["embeddings"],
        counts=counts,
        mapping=mapping,
        token_weights=tensors.get("weights"),
        normalize=bool(config.get("normalize")),
        weight=head["weight"].astype(np.float32),
        bias=head["bias"].astype(np.float32),
    )


def missing() -> str | None:
    """See `EngineKind`."""
    return None if find_spec("safetensors") else "safetensors is not installed; pip install safetensors"


def _ignored(tokenizer: dict[str, Any]) -> list[int]:
    """Ids of the special tokens and of the unknown token."""
    ids = {int(token["id"]) for token in tokenizer.get("added_tokens", ()) if token.get("special")}
    model = tokenizer["model"]
    unknown = model.get("unk_id")
    if unknown is None and isinstance(model.get("vocab"), dict):
        unknown = model["vocab"].get(model.get("unk_token"))
    return sorted(ids if unknown is None else ids | {int(unknown)})


KIND = EngineKind(name="static", schemes=("fp32",), load=load, missing=missing)

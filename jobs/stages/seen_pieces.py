"""Only the pieces that the rows use are trained: the others would get no gradient, and cost most of every step.

A small model is mostly word embeddings, and a few thousand rows use a few thousand of their 30,000 pieces. The rest
have gradient zero, yet would be averaged over the workers, clipped and stepped like any other weight. Here they stand
aside, are not decayed either, and come back unchanged when the student is saved. With no weight decay the result is
that of training the whole table, bit for bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from deshi.jobs.stages.architectures import architecture_of


class SeenEmbedding(nn.Module):
    """Embeddings [seen, width] of some pieces, asked with ids of the whole vocabulary."""

    place: Tensor

    def __init__(self, whole: nn.Embedding, seen: NDArray[np.int64]) -> None:
        super().__init__()
        rows = torch.from_numpy(np.asarray(seen, np.int64))
        place = torch.full((whole.num_embeddings,), -1, dtype=torch.int64)
        place[rows] = torch.arange(len(rows))
        self.whole = whole.weight.detach().clone()  # no parameter and no buffer: it is not trained, sent or saved
        self.register_buffer("place", place, persistent=False)
        self.weight = nn.Parameter(self.whole[rows].clone())
        self.padding = None if whole.padding_idx is None else int(place[whole.padding_idx])

    def forward(self, ids: Tensor) -> Tensor:
        """Vectors [..., width] of ids [...]; every id must be one of the seen."""
        return nn.functional.embedding(self.place[ids], self.weight, padding_idx=self.padding)

    def put_back(self, weight: Tensor) -> Tensor:
        """The whole table [vocabulary, width] with the trained rows [seen, width] in their places."""
        whole = self.whole.clone()
        whole[self.place.to(whole.device) >= 0] = weight.to(whole)
        return whole


def keep_to_seen(model: Any, ids: NDArray[np.int64]) -> None:
    """Replaces a classifier's word embeddings by those of the pieces that occur in `ids` (its padding id included)."""
    path = architecture_of(model.config).embedding
    whole = model.base_model.get_submodule(path)
    padding = [] if whole.padding_idx is None else [whole.padding_idx]
    seen = np.union1d(ids, np.array(padding, np.int64))
    parent, _, name = path.rpartition(".")
    setattr(model.base_model.get_submodule(parent), name, SeenEmbedding(whole, seen))


def whole_state(model: Any) -> dict[str, Tensor]:
    """The state dict of a classifier with its whole word embeddings, in fp32 on the CPU."""
    state = {name: value.detach().cpu().float().contiguous() for name, value in model.state_dict().items()}
    for name, module in model.named_modules():
        if isinstance(module, SeenEmbedding):
            state[f"{name}.weight"] = module.put_back(state[f"{name}.weight"])
    return state

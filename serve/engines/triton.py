"""Our Triton kernels under a transformers classifier: integers for weights, norms and activations fused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deshi.serve.engines.engine import EngineKind, TokenBatch
from deshi.serve.engines.triton_model import SCHEMES, missing, open_model


class TritonEngine:
    """A quantized classifier on its device."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model = model
        self._threads = threads

    def logits(self, batch: TokenBatch) -> NDArray[np.float32]:
        """See `Engine`."""
        import torch

        if self._model.device.type == "cpu" and torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)  # the process's: another engine may have moved it
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(batch.input_ids).to(self._model.device),
                attention_mask=torch.from_numpy(batch.attention_mask).to(self._model.device),
            )
        return cast(NDArray[np.float32], output.logits.float().cpu().numpy())


def load(folder: Path, *, threads: int) -> TritonEngine:
    """Opens `engines/triton-<scheme>/`."""
    from transformers import AutoModelForSequenceClassification

    return TritonEngine(open_model(folder, AutoModelForSequenceClassification), threads)


KIND = EngineKind(name="triton", schemes=SCHEMES, load=load, missing=missing)

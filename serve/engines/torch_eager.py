"""Eager PyTorch: stock transformers on the model folder itself. The reference that every other engine is
held to.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deshi.serve.engines.engine import EngineKind, TokenBatch
from deshi.serve.serving import MODEL_FOLDER


class TorchEngine:
    """A transformers classifier, on its device."""

    def __init__(self, model: Any, threads: int) -> None:
        self._model = model
        self._threads = threads

    def logits(self, batch: TokenBatch) -> NDArray[np.float32]:
        """See `Engine`."""
        import torch

        # The setting is the process's: another engine may have moved it.
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        device = self._model.device
        with torch.inference_mode():
            output = self._model(
                input_ids=torch.from_numpy(batch.input_ids).to(device),
                attention_mask=torch.from_numpy(batch.attention_mask).to(device),
            )
        return cast(NDArray[np.float32], output.logits.float().cpu().numpy())


def load(folder: Path, *, threads: int) -> TorchEngine:
    """Opens the model folder beside the builds: `<candidate>/model` for `<candidate>/engines/<build>`."""
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        folder.parent.parent / MODEL_FOLDER,
        dtype=torch.float32,
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    )
    return TorchEngine(model.eval().to("cuda" if torch.cuda.is_available() else "cpu"), threads)


def missing() -> str | None:
    """See `EngineKind`."""
    absent = [name for name in ("torch", "transformers") if find_spec(name) is None]
    return f"{absent[0]} is not installed; pip install torch transformers" if absent else None


KIND = EngineKind(name="torch_eager", schemes=("fp32",), load=load, missing=missing)

"""Our Triton kernels under a transformers classifier: integers for weights, norms and activations fused."""

from __future__ import annotations

from pathlib import Path

from deshi.serve.engines.engine import EngineKind
from deshi.serve.engines.torch_eager import TorchEngine
from deshi.serve.engines.triton_model import SCHEMES, missing, open_model


def load(folder: Path, *, threads: int) -> TorchEngine:
    """Opens `engines/triton-<scheme>/`."""
    from transformers import AutoModelForSequenceClassification

    return TorchEngine(open_model(folder, AutoModelForSequenceClassification), threads)


KIND = EngineKind(name="triton", schemes=SCHEMES, load=load, missing=missing)

"""ONNX Runtime on the CPU: runs `model.onnx` (inputs input_ids, attention_mask [rows, tokens]; output
logits).
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from deshi.serve.engines.engine import EngineKind, TokenBatch

MODEL_FILE = "model.onnx"
# Slower than what it replaces: on AVX2 the kernel of SkipLayerNormalization takes 5 times as long as Add and
# LayerNormalization do together, 18% of a whole int8 model.
SLOW_FUSIONS = ["SkipLayerNormFusion"]


class OnnxRuntimeEngine:
    """A session."""

    def __init__(self, session: Any) -> None:
        self._session = session

    def logits(self, batch: TokenBatch) -> NDArray[np.float32]:
        """See `Engine`."""
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        return cast(NDArray[np.float32], self._session.run(["logits"], feed)[0])


def load(folder: Path, *, threads: int) -> OnnxRuntimeEngine:
    """Opens `folder`/model.onnx for `threads` threads."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    # A spinning worker takes the core that the HTTP server beside it needs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(
        str(folder / MODEL_FILE),
        options,
        providers=["CPUExecutionProvider"],
        disabled_optimizers=SLOW_FUSIONS,
    )
    return OnnxRuntimeEngine(session)


def missing() -> str | None:
    """See `EngineKind`."""
    return None if find_spec("onnxruntime") else "onnxruntime is not installed; pip install onnxruntime"


KIND = EngineKind(name="onnxruntime", schemes=("fp32", "w8a8"), load=load, missing=missing)

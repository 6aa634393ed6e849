"""OpenVINO on the CPU: runs `model.xml` (inputs input_ids, attention_mask [rows, tokens]; output logits)."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from deshi.serve.engines.engine import EngineKind, TokenBatch

MODEL_FILE = "model.xml"


class OpenVinoEngine:
    """A compiled model and its one request."""

    def __init__(self, request: Any) -> None:
        self._request = request

    def logits(self, batch: TokenBatch) -> NDArray[np.float32]:
        """See `Engine`."""
        feed = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
        # The output is memory of the request, which the next call writes over.
        return np.array(self._request.infer(feed, share_inputs=True)[0], dtype=np.float32)


def load(folder: Path, *, threads: int) -> OpenVinoEngine:
    """Compiles `folder`/model.xml for `threads` threads."""
    import openvino
    import openvino.properties as properties
    import openvino.properties.hint as hint

    settings = {
        properties.inference_num_threads(): threads,
        properties.num_streams(): 1,
        hint.performance_mode(): hint.PerformanceMode.LATENCY,
        # Where the processor has bf16, OpenVINO would take it unasked; the numbers are to be the exporter's.
        hint.inference_precision(): openvino.Type.f32,
    }
    compiled = openvino.Core().compile_model(str(folder / MODEL_FILE), "CPU", settings)
    return OpenVinoEngine(compiled.create_infer_request())


def missing() -> str | None:
    """See `EngineKind`."""
    return None if find_spec("openvino") else "openvino is not installed; pip install openvino"


KIND = EngineKind(name="openvino", schemes=("fp32", "w8a8", "w8a16"), load=load, missing=missing)

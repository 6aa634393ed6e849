"""A model folder becomes `model.onnx`, in fp32 or in dynamic int8 (w8a8), for ONNX Runtime on the CPU.

    transformers model --first_token.lean--> fewer operations --torch.onnx--> graph
        --fusion--> Attention, BiasGelu
        --quantize_dynamic--> int8 weights, one scale per output channel; activations quantized at run time

What was measured on a 2-core AVX2 processor without VNNI, and why it is so: fusion without the first-token
layer gives 2% and with it 6% over the unfused int8 graph; SkipLayerNormalization costs more than it saves
(see the engine); signed weights beat unsigned ones by 14%; per-channel scales cost 3% and leave less than
a third of the KL of per-tensor ones; `reduce_range` costs accuracy; block-quantized weights (MatMulNBits) are slower
than fp32 from 128 tokens on. Embedding tables are int8 too: they are most of the file. The last linear
stays fp32: it is small and decides.
"""

from __future__ import annotations

import contextlib
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from deshi.jobs.exporters.first_token import lean
from deshi.serve.engines.onnxruntime import MODEL_FILE

OPSET = 17
PROTOBUF_LIMIT = 2_000_000_000  # bytes
AGREEMENT = 1e-3  # largest difference of a logit, relative to the largest logit, that fusing may make


def export_onnx(model_folder: Path, out_folder: Path, scheme: str) -> None:
    """Writes `out_folder`/model.onnx; scheme `fp32` or `w8a8`. The same input gives the same bytes.

    Raises:
        ValueError: for another scheme, or a model too large for one ONNX file.
    """
    if scheme not in ("fp32", "w8a8"):
        raise ValueError(f"scheme {scheme!r} is not made for ONNX Runtime; use fp32 or w8a8")
    out_folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="deshi-onnx-") as name, quiet():
        plain, fused = Path(name) / "plain.onnx", Path(name) / "fused.onnx"
        heads, hidden = trace(model_folder, plain)
        _fuse(plain, fused, heads=heads, hidden=hidden)
        # The fusions match patterns of known families; where one matches wrongly, the plain graph is served.
        best = fused if _same_logits(plain, fused) else plain
        if scheme == "fp32":
            best.replace(out_folder / MODEL_FILE)
        else:
            _quantize(best, out_folder / MODEL_FILE)


def trace(model_folder: Path, path: Path) -> tuple[int, int]:
    """Writes the unfused fp32 graph, rows and tokens dynamic; gives (attention heads, hidden size).

    Raises:
        ValueError: if the model is too large for one ONNX file.
    """
    import torch
    from transformers import AutoModelForSequenceClassification

    model = AutoModelForSequenceClassification.from_pretrained(
        model_folder,
        dtype=torch.float32,
        attn_implementation="eager",  # the form that the attention fusion knows
        local_files_only=True,
        trust_remote_code=False,
        use_safetensors=True,
    ).eval()
    size = 4 * sum(parameter.numel() for parameter in model.parameters())
    if size > PROTOBUF_LIMIT:
        raise ValueError(
            f"the model holds {size / 1e9:.1f} GB in fp32, one ONNX file at most 2; keep fewer layers or words"
        )
    ids = torch.full((2, 8), min(10, model.config.vocab_size - 1), dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    torch.onnx.export(
        lean(model),
        (ids, mask),
        str(path),
        dynamo=False,
        opset_version=OPSET,
        input_names=["input_ids", "attention_mask"],
        output_names=["logits"],
        dynamic_axes={
            "input_ids": {0: "rows", 1: "tokens"},
            "attention_mask": {0: "rows", 1: "tokens"},
            "logits": {0: "rows"},
        },
    )
    return int(model.config.num_attention_heads), int(model.config.hidden_size)


def _fuse(source: Path, target: Path, *, heads: int, hidden: int) -> None:
    """Attention and GELU become one operator each; padding is on the right, so a row's mask is its length."""
    from onnxruntime.transformers.fusion_options import FusionOptions
    from onnxruntime.transformers.optimizer import optimize_model

    options = FusionOptions("bert")
    options.enable_skip_layer_norm = False
    options.enable_bias_skip_layer_norm = False
    options.enable_embed_layer_norm = False
    optimized = optimize_model(
        str(source), "bert", num_heads=heads, hidden_size=hidden, optimization_options=options, opt_level=0
    )
    optimized.save_model_to_file(str(target))


def _same_logits(plain: Path, fused: Path) -> bool:
    """Whether both graphs answer the same to two random batches, padding in them."""
    sessions = [_session(path) for path in (plain, fused)]
    rng = np.random.default_rng(0)
    for rows, tokens in ((1, 3), (3, 13)):
        ids = rng.integers(0, 10, (rows, tokens))
        mask = (np.arange(tokens) < rng.integers(1, tokens + 1, (rows, 1))).astype(np.int64)
        one, other = (session.run(["logits"], {"input_ids": ids, "attention_mask": mask})[0] for session in sessions)
        if not np.abs(one - other).max() <= AGREEMENT * np.abs(one).max():
            return False
    return True


def _session(path: Path) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _quantize(source: Path, target: Path) -> None:
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    graph = onnx.load(str(source)).graph
    rank = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    kept = [
        node.name
        for node in graph.node
        # Weights with one matrix a head have no int8 kernel; the last linear stays as it is.
        if "logits" in node.output or (node.op_type == "MatMul" and rank.get(node.input[1], 2) != 2)
    ]
    quantize_dynamic(
        str(source),
        str(target),
        weight_type=QuantType.QInt8,
        per_channel=True,
        nodes_to_exclude=kept,
        extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
    )


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """These libraries announce each step by prints, the root logger and warnings; none of it is news here."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)

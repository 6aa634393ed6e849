"""A release of a language model on CUDA: vLLM through `ray.serve.llm`, for `serve run` and a Serve config file.

    serve run deshi.serve.vllm_app:build release=... target=...

Ray's own OpenAI ingress answers, not ours. The weights are the release's model folder, not the build of its target:
the release's evidence is of that build, so what was measured on a CPU says nothing of speed here. The target's slots
and the release's context are kept.

Limits: never run by this project's tests, which have neither CUDA nor vLLM; they check the configuration that is built
against Ray's schema alone. The sentences of errors are vLLM's, and it takes parameters that `openai_contract.py`
refuses. Ray logs the prompts unless RAYLLM_ENABLE_REQUEST_PROMPT_LOGS=0 is set.
"""

# No `from __future__ import annotations`: Ray reads the type of `build`'s argument to parse `key=value`.

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from deshi.serve import release as releases
from deshi.serve.serving import MODEL_FOLDER, Serving

if TYPE_CHECKING:
    from ray import serve


class Args(BaseModel):
    """What `serve run` and a Serve config file may say (`key=value`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str = Field(description="a folder with serving.json that every node can read")
    target: str | None = Field(None, description="a target of the release; the first one if left out")
    despite_verdict: bool = Field(False, description="serve it though it was not accepted")
    replicas: int = Field(1, ge=1)
    accelerator_type: str | None = Field(None, description="e.g. A10G, H100; any if left out")


def build(args: Args) -> "serve.Application":
    """The application; refuses here, before anything is started, what may not or cannot be served.

    Raises:
        ValueError: if a file differs, the verdict forbids it, the target or the task is another, or CUDA or vLLM are
            missing.
    """
    settings = llm_settings(args)
    if (reason := missing()) is not None:
        raise ValueError(f"vLLM cannot run here: {reason}")
    from ray.serve.llm import LLMConfig, build_openai_app

    return build_openai_app({"llm_configs": [LLMConfig.model_validate(settings)]})


def llm_settings(args: Args) -> dict[str, Any]:
    """What `ray.serve.llm.LLMConfig` is made of.

    Raises:
        ValueError: if a file differs, the verdict forbids it, or the target or the task is another.
    """
    folder = Path(args.release).resolve()
    serving, _ = releases.opened(folder, despite_verdict=args.despite_verdict)
    if serving.task != "generate":
        raise ValueError(f"{folder} is served for task {serving.task!r}; vLLM writes text: use deshi.serve.app")
    return {
        "model_loading_config": {"model_id": serving.name, "model_source": str(folder / MODEL_FOLDER)},
        "engine_kwargs": engine_settings(serving, args.target),
        "accelerator_type": args.accelerator_type,
        "deployment_config": {"name": "generate", "num_replicas": args.replicas},
        # Ray would gather the tokens of 50 ms.
        "experimental_configs": {"stream_batching_interval_ms": 0},
    }


def engine_settings(serving: Serving, target: str | None) -> dict[str, Any]:
    """vLLM's own: as many answers at once as the target has slots, in the same context."""
    return {
        "max_model_len": serving.max_length,
        "max_num_seqs": serving.target(target).slots,
        "load_format": "safetensors",
        "trust_remote_code": False,
        # Sampling as the request says and not as generation_config.json does, like the other engines.
        "generation_config": "vllm",
    }


def missing() -> str | None:
    """Why vLLM cannot run on this machine, or None."""
    if find_spec("vllm") is None:
        return "vllm is not installed; pip install 'ray[llm]', or serve with deshi.serve.app"
    import torch

    return None if torch.cuda.is_available() else "there is no CUDA device; serve with deshi.serve.app"

"""A served folder that writes: tests/serve's parrot, which says "Hey 😀ü!" for ever, a byte a token."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from deshi.jobs.exporters.gguf import export
from deshi.serve.serving import ANY_SHAPE, ServedTarget, Serving

write_parrot = runpy.run_path(str(Path(__file__).parents[2] / "serve" / "conftest.py"))["write_parrot"]


@pytest.fixture(scope="session")
def parrot(tmp_path_factory) -> Path:
    """llama.cpp with eight slots, and PyTorch. Read-only."""
    folder = tmp_path_factory.mktemp("parrot") / "candidate"
    write_parrot(folder)
    export(folder / "model", folder / "engines" / "llamacpp-f16", scheme="f16")
    (folder / "engines" / "torch_generate-fp32").mkdir()
    (folder / "engines" / "torch_generate-fp32" / "build.json").write_text("{}")
    targets = {"onprem": ServedTarget(threads=1, slots=8, builds={ANY_SHAPE: "llamacpp-f16"})}
    Serving(name="parrot", task="generate", max_length=1024, targets=targets).write(folder)
    return folder

"""From a release folder of a language model to the application that serves it: what Ray Serve and the one process have
in common.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fastapi import FastAPI

from deshi.serve import release
from deshi.serve.chat_ingress import chat_ingress
from deshi.serve.chat_template import Prompts
from deshi.serve.endpoint import Info
from deshi.serve.engines.engine import engine_of
from deshi.serve.engines.generation import GenerationEngine
from deshi.serve.engines.table import generation_engine
from deshi.serve.service import info_of
from deshi.serve.serving import ANY_SHAPE, ENGINES_FOLDER, MODEL_FOLDER, Serving

if TYPE_CHECKING:
    from deshi.serve.mapping import WireMapping

MAX_QUEUED = 64  # requests that may wait for a slot


@dataclass(frozen=True, kw_only=True)
class GenerateService:
    """A loaded release."""

    serving: Serving
    info: Info
    engine: GenerationEngine
    prompts: Prompts

    def application(self, mapping: WireMapping | None = None) -> FastAPI:
        """The ingress over the engine; with a mapping it speaks an old service's JSON too."""
        return chat_ingress(self.engine, self.prompts, self.serving, self.info, mapping)


def opened(
    folder: Path, *, target: str | None, despite_verdict: bool = False, max_queued: int = MAX_QUEUED
) -> GenerateService:
    """Verifies a release, loads its engine for a target.

    Raises:
        ValueError: if a file differs, the verdict forbids it, the target is not in the release, or a build cannot run.
    """
    serving, manifest = release.opened(folder, despite_verdict=despite_verdict)
    served = serving.target(target)
    prompts = Prompts.load(folder / MODEL_FOLDER)
    build = served.builds[ANY_SHAPE]
    path = folder / ENGINES_FOLDER / build
    if not path.is_dir():
        raise ValueError(f"build {build!r} is not in {folder}; export it, or serve another target")
    engine = generation_engine(engine_of(build)).open(
        path,
        threads=served.threads,
        slots=served.slots,
        context_length=serving.max_length,
        max_queued=max_queued,
    )
    # What is loaded stays for ever: the collector need not walk it again while requests wait.
    gc.collect()
    gc.freeze()
    return GenerateService(
        serving=serving, info=info_of(folder, serving, target, manifest), engine=engine, prompts=prompts
    )


def curl(host: str, port: int) -> str:
    """What to type."""
    return (
        f"curl -s http://{host}:{port}/v1/chat/completions -H 'content-type: application/json' "
        """-d '{"messages": [{"role": "user", "content": "Hello!"}], "max_tokens": 32}'"""
    )

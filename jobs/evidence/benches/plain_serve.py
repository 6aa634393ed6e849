"""The control of the endpoint's benchmark: what a person writes in ten minutes with Ray Serve and FastAPI.

One deployment, Serve's defaults, FastAPI's own body parsing and replies, the same engine with the same threads on the
same release, no batching. It is compared with and never served:
`serve run deshi.jobs.evidence.benches.plain_serve:build release=...`.
"""

# No `from __future__ import annotations`: Serve reads the class of `build`'s parameter to make it of its arguments.

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from pydantic import BaseModel

from deshi.serve import command
from deshi.serve.classifier import Classifier

if TYPE_CHECKING:
    from ray import serve


class Args(BaseModel):
    """What to serve."""

    release: str
    target: str | None = None
    max_ongoing_requests: int = 100  # with its default of 5, 64 clients get a reply or two a second: no fair control


class Body(BaseModel):
    """Body of POST /classify."""

    input: str | list[str]


class Plain:
    """FastAPI in front of the engine."""

    def __init__(self, args: Args) -> None:
        self._classifier = Classifier.load(Path(args.release), args.target)

    def __serve_build_asgi_app__(self) -> Any:
        from fastapi import FastAPI

        app = FastAPI()
        classifier = self._classifier

        @app.post("/classify")
        async def classify(body: Body) -> dict[str, Any]:
            texts = [body.input] if isinstance(body.input, str) else body.input
            probabilities = np.exp(classifier.log_probabilities(texts))
            return {
                "data": [
                    {"index": index, "label": classifier.labels[int(row.argmax())], "probs": row.tolist()}
                    for index, row in enumerate(probabilities)
                ]
            }

        @app.get("/healthz")
        def healthz() -> dict[str, str]:
            return {"status": "ok"}

        return app


def build(args: Args) -> "serve.Application":
    """The plain application."""
    from ray import serve

    return serve.deployment(name="plain", max_ongoing_requests=args.max_ongoing_requests)(serve.ingress()(Plain)).bind(
        args
    )


def serve_plainly(folder: Path, *, target: str | None, port: int, despite_verdict: bool) -> None:
    """Serves a release on loopback until SIGTERM, with Serve's own defaults; whatever its verdict."""
    import signal

    import ray
    from ray import serve

    ray.init("local", include_dashboard=False, log_to_driver=False)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    serve.run(build(Args(release=str(folder), target=target)), name="plain", route_prefix="/")
    try:
        signal.pause()
    except KeyboardInterrupt:
        serve.shutdown()
        ray.shutdown()


if __name__ == "__main__":
    command.run(
        serve_plainly,
        prog="deshi.jobs.evidence.benches.plain_serve",
        description="Serves a release as a plain Serve app.",
    )

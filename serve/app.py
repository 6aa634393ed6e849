"""The Ray Serve application: ingress, batching and engine in one deployment, so that a request makes one hop.

    serve run deshi.serve.app:build release=runs/trec/release

or by a Serve config file, see cluster/serve-config.yaml. A second deployment behind the ingress costs 4 ms.
"""

# No `from __future__ import annotations`: Serve reads the class of `build`'s parameter to make it of its arguments.

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field

from deshi.serve import generate_service, service
from deshi.serve import release as releases
from deshi.serve.batching import BoundedQueue, Part, Run, joined
from deshi.serve.contract import MAX_ROWS
from deshi.serve.ingress import ingress
from deshi.serve.mapping import WireMapping
from deshi.serve.serving import Serving

if TYPE_CHECKING:
    from ray import serve


class Args(BaseModel):
    """What `serve run` and a Serve config file may say (`key=value`)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    release: str = Field(description="a folder with serving.json that every node can read")
    target: str | None = Field(None, description="a target of the release; the first one if left out")
    despite_verdict: bool = Field(False, description="serve it though it was not accepted")
    speaks: str | None = Field(None, description="a mapping file of an old service that every node can read")
    replicas: int = Field(1, ge=1)
    max_batch_size: int = Field(32, ge=1, description="rows; of a classifier")
    batch_wait_timeout_s: float = Field(0.002, ge=0, description="of a classifier")
    max_queued: int = Field(1024, ge=MAX_ROWS, description="rows inside a replica; more is a 503; of a classifier")

    def mapping(self, serving: Serving) -> WireMapping | None:
        """What the file `speaks` holds."""
        return None if self.speaks is None else WireMapping.read(Path(self.speaks), serving)


def gathered(run: Run, *, max_batch_size: int, wait_s: float) -> Callable[[Sequence[str]], Awaitable[Part]]:
    """Texts of several requests gathered by `serve.batch`; called within a replica.

    `serve.batch` would let a lone text wait the whole `wait_s` for company that does not come. So what finds the engine
    free goes straight to it, and only what comes meanwhile is gathered.
    """
    from ray import serve

    engine = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")
    inside = 0

    def timed(texts: list[str]) -> Part:
        began = time.perf_counter()
        rows = run(texts)
        return Part(rows=rows, engine_s=time.perf_counter() - began)

    async def at_once(texts: Sequence[str]) -> Part:
        return await asyncio.get_running_loop().run_in_executor(engine, timed, list(texts))

    @serve.batch(max_batch_size=max_batch_size, batch_wait_timeout_s=wait_s)
    async def together(texts: list[str]) -> list[Part]:
        batch = await at_once(texts)
        return [Part(rows=batch.rows[at : at + 1], engine_s=batch.engine_s) for at in range(len(texts))]

    async def part(texts: Sequence[str]) -> Part:
        nonlocal inside
        inside += 1
        try:
            if inside == 1:
                return await at_once(texts)
            parts = await asyncio.gather(*(together(text) for text in texts))
        finally:
            inside -= 1
        return Part(rows=joined([one.rows for one in parts]), engine_s=max(one.engine_s for one in parts))

    return part


class Classify:
    """One replica: one engine with the target's threads."""

    def __init__(self, args: Args) -> None:
        self._opened = service.opened(Path(args.release), target=args.target, despite_verdict=args.despite_verdict)
        self._args = args

    def __serve_build_asgi_app__(self) -> Any:
        args = self._args
        part = gathered(self._opened.run, max_batch_size=args.max_batch_size, wait_s=args.batch_wait_timeout_s)
        queue = BoundedQueue(part, max_batch_size=args.max_batch_size, max_queued=args.max_queued)
        mapping = args.mapping(self._opened.serving)
        return ingress(queue.submit, self._opened.serving, self._opened.info, mapping)


class Generate:
    """The same for a language model: the engine forms its batches itself, over the target's slots."""

    def __init__(self, args: Args) -> None:
        self._opened = generate_service.opened(
            Path(args.release), target=args.target, despite_verdict=args.despite_verdict
        )
        self._args = args

    def __serve_build_asgi_app__(self) -> Any:
        return self._opened.application(self._args.mapping(self._opened.serving))


def build(args: Args) -> "serve.Application":
    """The application; refuses here, before anything is started, what may not be served."""
    import ray
    from ray import serve
    from ray.serve.config import BackpressureConfig
    from ray.serve.schema import LoggingConfig

    serving, _ = releases.opened(Path(args.release), despite_verdict=args.despite_verdict)
    threads = serving.target(args.target).threads
    args.mapping(serving)
    if ray.is_initialized():
        threads = min(threads, int(max(node["Resources"].get("CPU", 1) for node in ray.nodes())))
    deployment = serve.deployment(
        name=serving.task,
        num_replicas=args.replicas,
        ray_actor_options={"num_cpus": threads},
        # The replica's own queue refuses first, with a reply that says so; Serve's limits are the second line.
        max_ongoing_requests=2 * args.max_queued,
        max_queued_requests=args.max_queued,
        backpressure_config=BackpressureConfig(status_code=503, retry_after_s=1),
        logging_config=LoggingConfig(enable_access_log=False, log_level="WARNING"),  # a line costs as much as a parse
    )
    paths = {"release": args.release} | ({} if args.speaks is None else {"speaks": args.speaks})
    resolved = args.model_copy(update={name: str(Path(path).resolve()) for name, path in paths.items()})
    return deployment(serve.ingress()(Generate if serving.task == "generate" else Classify)).bind(resolved)

"""One process: ingress, batcher and engine under uvicorn. No Ray, no torch: for targets too small for them.

python -m deshi.serve.process RELEASE --target edge --port 8000
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI

from deshi.serve import command, generate_service, service
from deshi.serve.batching import BoundedQueue, Gatherer
from deshi.serve.command import curl, refuse_open_host
from deshi.serve.endpoint import WithRequestId
from deshi.serve.ingress import ingress
from deshi.serve.serving import Serving

if TYPE_CHECKING:
    from deshi.serve.mapping import WireMapping


def serve_in_process(
    folder: Path,
    *,
    target: str | None = None,
    port: int = 8000,
    host: str = "127.0.0.1",
    despite_verdict: bool = False,
    speaks: Path | None = None,
    max_batch_size: int = 32,
    batch_wait_timeout_s: float = 0.002,
    max_queued: int = 1024,
) -> None:
    """Serves a release until SIGINT or SIGTERM; requests in flight are answered first.

    Raises:
        ValueError: if the release may not be served, the host is not the loopback interface, or the mapping file
            `speaks` is none.
    """
    refuse_open_host(host)
    serving = Serving.read(folder)
    writes = serving.task == "generate"
    mapping = None
    if speaks is not None:
        from deshi.serve.mapping import WireMapping  # and jinja2: not in the memory of those who need none

        mapping = WireMapping.read(speaks, serving)
    open_it = generate_service.opened if writes else service.opened
    opened = open_it(folder, target=target, despite_verdict=despite_verdict)
    # uvicorn raises the signal again when it has stopped: either one ends the loop, neither is an error.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        if isinstance(opened, generate_service.GenerateService):
            # Every token passes the event loop: uvloop's, where it is installed, takes half the time.
            with asyncio.Runner(loop_factory=uvicorn.Config("").get_loop_factory()) as runner:
                runner.run(_generate(opened, mapping, host, port))
        else:
            asyncio.run(_classify(opened, mapping, host, port, max_batch_size, batch_wait_timeout_s, max_queued))


async def _generate(
    opened: generate_service.GenerateService, mapping: WireMapping | None, host: str, port: int
) -> None:
    try:
        await _serve(opened.application(mapping), host, port, generate_service.curl(host, port))
    finally:
        opened.engine.close()


async def _classify(
    opened: service.Service,
    mapping: WireMapping | None,
    host: str,
    port: int,
    batch: int,
    wait_s: float,
    queued: int,
) -> None:
    gatherer = Gatherer(opened.run, max_batch_size=batch, wait_s=wait_s)
    queue = BoundedQueue(gatherer.part, max_batch_size=batch, max_queued=queued)
    await _serve(ingress(queue.submit, opened.serving, opened.info, mapping), host, port, curl(host, port))
    gatherer.close()


async def _serve(application: FastAPI, host: str, port: int, typed: str) -> None:
    app = WithRequestId(application)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, timeout_keep_alive=75)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        print(typed, flush=True)
    await serving


if __name__ == "__main__":
    command.run(serve_in_process, prog="deshi.serve.process", description="Serves a release in one process.")

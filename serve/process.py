"""One process: ingress, batcher and engine under uvicorn. No Ray, no torch: for targets too small for them.

python -m deshi.serve.process RELEASE --target edge --port 8000
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
from pathlib import Path

import uvicorn

from deshi.serve import command, service
from deshi.serve.batching import BoundedQueue, Gatherer
from deshi.serve.command import curl, refuse_open_host
from deshi.serve.ingress import WithRequestId, ingress


def serve_in_process(
    folder: Path,
    *,
    target: str | None = None,
    port: int = 8000,
    host: str = "127.0.0.1",
    despite_verdict: bool = False,
    max_batch_size: int = 32,
    batch_wait_timeout_s: float = 0.002,
    max_queued: int = 1024,
) -> None:
    """Serves a release until SIGINT or SIGTERM; requests in flight are answered first.

    Raises:
        ValueError: if the release may not be served, or the host is not the loopback interface.
    """
    refuse_open_host(host)
    opened = service.opened(folder, target=target, despite_verdict=despite_verdict)
    # uvicorn raises the signal again when it has stopped: either one ends the loop, neither is an error.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(opened, host, port, max_batch_size, batch_wait_timeout_s, max_queued))


async def _serve(opened: service.Service, host: str, port: int, batch: int, wait_s: float, queued: int) -> None:
    gatherer = Gatherer(opened.run, max_batch_size=batch, wait_s=wait_s)
    queue = BoundedQueue(gatherer.part, max_batch_size=batch, max_queued=queued)
    app = WithRequestId(ingress(queue.submit, opened.serving, opened.info))
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", access_log=False, timeout_keep_alive=75)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    while not (server.started or serving.done()):
        await asyncio.sleep(0.01)
    if server.started:
        print(curl(host, port), flush=True)
    await serving
    gatherer.close()


if __name__ == "__main__":
    command.run(serve_in_process, prog="deshi.serve.process", description="Serves a release in one process.")

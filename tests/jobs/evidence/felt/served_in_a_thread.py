"""A hand-made HTTP/1.1 server in a thread, for tests that must know its every moment; read with `runpy.run_path`."""

from __future__ import annotations

import asyncio
import threading


class ServedInAThread:
    """`talk(reader, writer)` answers a connection; `at_once` of them may hold `slots`. Its `url` ends in `path`."""

    at_once = 1000
    path = ""

    def __enter__(self):
        started = threading.Event()

        async def run():
            self.slots = asyncio.Semaphore(self.at_once)
            self.stop = asyncio.Event()
            self.loop = asyncio.get_running_loop()
            server = await asyncio.start_server(self.talk, "127.0.0.1", 0)
            self.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}{self.path}"
            started.set()
            await self.stop.wait()

        self.thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
        self.thread.start()
        started.wait()
        return self

    def __exit__(self, *_):
        self.loop.call_soon_threadsafe(self.stop.set)
        self.thread.join()

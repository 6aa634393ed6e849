"""Requests that an old service was sent, sent again: to it and to the new endpoint, in turn.

One request is under way at a time, so that neither service feels the other's load, nor a service in production more
than one client. Every second request goes to the new endpoint first. Latency is from the first byte sent to the last
one read, over a kept-alive connection.

The file: JSON Lines in UTF-8, each line a body, or `{"path": "/...", "body": {...}}` for requests to several paths.
"""

from __future__ import annotations

import json
import re
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import SplitResult, urlsplit, urlunsplit

import httpx2

TIMEOUT_S = 30.0
CONNECT_RETRIES = 2  # the client's own, after 0 and 0.5 s
GONE_AFTER = 10  # requests in a row without a reply
_HEADER = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request of the file."""

    line: int
    path: str | None
    body: bytes


@dataclass(frozen=True, kw_only=True)
class Got:
    """What came back. Status 0: nothing."""

    status: int
    ms: float
    reply: Any = None
    why: str = ""  # no JSON came, and why


@dataclass(frozen=True, kw_only=True)
class Pair:
    """One request and both replies."""

    asked: Asked
    old: Got
    new: Got


class Service:
    """A service under a URL."""

    def __init__(self, url: str, *, path: str, headers: Sequence[tuple[str, str]] = ()) -> None:
        """The service; without a connection yet.

        Args:
            url: a request's own path is put behind it.
            path: where requests go that name none, unless the URL has a path itself.
            headers: of every request.
        """
        parts = urlsplit(url)
        self.url = urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))  # fit to be shown
        self._own = url if parts.path.strip("/") else urlunsplit(parts._replace(path=path))
        self._base = url if not parts.query else urlunsplit(parts._replace(query=""))
        self._client = httpx2.Client(
            transport=httpx2.HTTPTransport(retries=CONNECT_RETRIES, proxy=_proxy_of(parts)),
            timeout=TIMEOUT_S,
            headers=[("content-type", "application/json"), *headers],
        )
        self._silent = 0

    def __enter__(self) -> Service:
        """The service itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Closes the connections."""
        self._client.close()

    def greet(self) -> None:
        """Looks whether somebody is there, and leaves the connection open.

        Raises:
            ValueError: if not.
        """
        try:
            self._client.head(self._own)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.ProxyError) as error:
            raise ValueError(
                f"{self.url} cannot be reached ({type(error).__name__}: {error}); start the old service or mend the URL"
            ) from None
        except httpx2.InvalidURL as error:
            raise ValueError(f"{self.url} is no URL ({error}); mend it") from None
        except httpx2.HTTPError:
            pass  # somebody is there who takes no HEAD

    def ask(self, asked: Asked) -> Got:
        """Sends a request.

        Raises:
            ValueError: if there was no reply many times in a row.
        """
        url = self._own if asked.path is None else self._base.rstrip("/") + asked.path
        began = time.perf_counter()
        try:
            reply = self._client.post(url, content=asked.body)
        except httpx2.HTTPError as error:
            self._silent += 1
            if self._silent >= GONE_AFTER:
                raise ValueError(
                    f"{self.url} gave no reply to {GONE_AFTER} requests in a row, the last on line {asked.line} "
                    f"({type(error).__name__}); see whether it still runs and start again"
                ) from None
            return Got(status=0, ms=(time.perf_counter() - began) * 1e3, why=f"no reply: {type(error).__name__}")
        ms = (time.perf_counter() - began) * 1e3
        self._silent = 0
        try:
            return Got(status=reply.status_code, ms=ms, reply=json.loads(reply.content, parse_constant=str))
        except (ValueError, RecursionError):
            return Got(status=reply.status_code, ms=ms, why="the reply is no JSON")


def replay(requests: Sequence[Asked], old: Service, new: Service, *, rate: float | None) -> Iterator[Pair]:
    """Sends every request to both services, at most `rate` a second to each.

    Raises:
        ValueError: if one of them no longer answers.
    """
    began = time.perf_counter()
    for number, asked in enumerate(requests):
        if rate is not None:
            time.sleep(max(0.0, began + number / rate - time.perf_counter()))
        if number % 2 == 0:
            told = old.ask(asked)
            yield Pair(asked=asked, old=told, new=new.ask(asked))
        else:
            told = new.ask(asked)
            yield Pair(asked=asked, old=old.ask(asked), new=told)


def requests_of(path: Path) -> list[Asked]:
    """Reads a file of requests.

    Raises:
        ValueError: naming the line that is no request, or if there is none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").split("\n")
    except OSError:
        raise ValueError(f"{path} cannot be read; give a .jsonl file with a request a line") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path} is not UTF-8; save it as UTF-8") from None
    asked = [_asked(line, number, path) for number, line in enumerate(lines, 1) if line.strip()]
    if not asked:
        raise ValueError(f"{path} holds no request; write one old request a line, as JSON")
    return asked


def refuse_url(url: str) -> None:
    """Looks whether a URL can be asked.

    Raises:
        ValueError: if it is not http(s).
    """
    try:
        parts = urlsplit(url)
        there = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        there = False
    if not there:
        raise ValueError(f"url {url.rpartition('@')[2]!r} is none that can be asked; give http(s)://HOST or .../PATH")


def header_of(said: str, number: int) -> tuple[str, str]:
    """Name and value of a header; a refusal does not repeat the value, which may be a secret.

    Raises:
        ValueError: if it is no header.
    """
    name, colon, value = said.partition(":")
    name, value = name.strip(), value.strip()
    if not colon or not _HEADER.fullmatch(name) or not value.isascii() or not value.isprintable():
        raise ValueError(f"header {number} is no 'name: value' of printable ASCII; write it so, in quotes")
    return name, value


def _asked(line: str, number: int, path: Path) -> Asked:
    try:
        content = json.loads(line)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise ValueError(f"{path} line {number} is no JSON object; write one old request a line")
    if content.keys() == {"path", "body"} and isinstance(content["path"], str) and content["path"].startswith("/"):
        return Asked(line=number, path=content["path"], body=json.dumps(content["body"]).encode())
    return Asked(line=number, path=None, body=line.strip().encode())


def _proxy_of(parts: SplitResult) -> str | None:
    """Of the environment, where a transport of our own does not look by itself; never for this machine."""
    host = parts.hostname or ""
    if host in ("127.0.0.1", "::1", "localhost") or urllib.request.proxy_bypass(host):
        return None
    return urllib.request.getproxies().get(parts.scheme)

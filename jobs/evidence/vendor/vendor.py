"""A vendor's model behind an OpenAI-compatible URL: looked at before work, then asked one text at a time.

The client is `openai`'s own, so what a busy endpoint asks for (429, Retry-After, 5xx, a lost connection) is done as
that library does it. A key is read from the environment variable that the user names and goes into the Authorization
header of requests to this URL alone: redirects are not followed, the library's own variables for key and organization
are not used, and no sentence of ours repeats it.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx2
import openai
from openai import Omit, OpenAI

LOOPBACK = ("127.0.0.1", "::1", "localhost")
RETRIES = 6  # with the library's own pauses about 25 s, or as long as the endpoint says
TIMEOUT_S = 60.0
CONNECT_S = 10.0
# Statuses that speak of one text (too long, forbidden by the vendor's own rules), not of the endpoint.
OF_THE_TEXT = (400, 413, 422)


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer.

    Attributes:
        text: as it came; empty where the endpoint would not answer this text.
        ms: of the try that succeeded, from its first byte sent to its last one read; NaN where there was none.
        logprob: sum over the answer's tokens, natural logarithm; None where the endpoint does not tell.
        tokens: of the answer, as the endpoint counts; None where it does not.
        ended: whether the model stopped by itself.
        tries: requests until there was an answer.
    """

    text: str
    ms: float
    logprob: float | None = None
    tokens: int | None = None
    ended: bool = False
    tries: int = 1


class Vendor:
    """The endpoint under a base URL such as https://vendor/v1."""

    def __init__(self, url: str, *, model: str, key_variable: str | None = None) -> None:
        """Opens no connection yet.

        Raises:
            ValueError: for a URL that may not be asked, or a variable that holds no key.
        """
        refuse_url(url)
        self.url, self.model = url.rstrip("/"), model
        self._key = "" if key_variable is None else key_of(key_variable)
        self._headers: dict[str, Any] = {"OpenAI-Organization": Omit(), "OpenAI-Project": Omit()}
        if not self._key:
            self._headers["Authorization"] = Omit()
        loopback = urlsplit(url).hostname in LOOPBACK
        self._client = OpenAI(
            base_url=self.url,
            api_key=self._key or "none",  # else the library would take OPENAI_API_KEY, which is not this vendor's
            admin_api_key="",
            max_retries=RETRIES,
            timeout=httpx2.Timeout(TIMEOUT_S, connect=CONNECT_S),
            http_client=httpx2.Client(follow_redirects=False, trust_env=not loopback),
        )

    def __enter__(self) -> Vendor:
        """The endpoint itself."""
        return self

    def __exit__(self, *raised: object) -> None:
        """Closes the connections."""
        self._client.close()

    def refuse_unknown(self) -> None:
        """Asks for the list of models; an endpoint that keeps none (404, 405) is asked as it is.

        Raises:
            ValueError: if nobody is there, the key does not open, or the model is not in the list.
        """
        once = self._client.with_options(max_retries=1)
        try:
            known = sorted(str(each.id) for each in once.models.list(extra_headers=self._headers))
        except openai.APIStatusError as error:
            if error.status_code in (404, 405):
                return
            raise ValueError(self.why(error)) from None
        except openai.APIConnectionError as error:
            raise ValueError(self.why(error)) from None
        except (openai.OpenAIError, AttributeError, TypeError, ValueError):
            raise ValueError(
                f"{self.url}/models is no list of models; give the base URL of an OpenAI-compatible endpoint, such as "
                f"https://vendor/v1"
            ) from None
        if self.model not in known:
            shown = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
            raise ValueError(f"--model {self.model!r} is not served at {self.url}; use one of {shown or '(none)'}")

    def ask(self, system: str, text: str, *, max_tokens: int, logprobs: bool) -> Reply:
        """One chat completion at temperature 0.

        Raises:
            openai.APIError: for what did not mend itself in `RETRIES` more tries.
        """
        more: dict[str, Any] = {"logprobs": True} if logprobs else {}
        raw = self._client.chat.completions.with_raw_response.create(
            model=self.model,
            messages=[{"role": "system", "content": system}, {"role": "user", "content": text}],
            temperature=0,
            max_tokens=max_tokens,
            extra_headers=self._headers,
            **more,
        )
        took = {"ms": raw.elapsed.total_seconds() * 1e3, "tries": raw.retries_taken + 1}
        try:
            said = raw.parse()
            choice = said.choices[0]
            content = choice.message.content or ""
        except (openai.OpenAIError, AttributeError, TypeError, ValueError, LookupError):
            return Reply(text="", **took)  # type: ignore[arg-type] # no chat completion: no answer either
        return Reply(
            text=content,
            logprob=_logprob(choice),
            tokens=None if said.usage is None else said.usage.completion_tokens,
            ended=choice.finish_reason == "stop",
            **took,  # type: ignore[arg-type]
        )

    def why(self, error: openai.APIError) -> str:
        """What went wrong, in one sentence that holds no key."""
        if isinstance(error, openai.APIStatusError):
            if error.status_code in (401, 403):
                return (
                    f"{self.url} answers {error.status_code}: it wants a key that it knows; put the key into an "
                    f"environment variable and give its name with --key-variable"
                )
            words = " ".join(str(error.message).split())[:200]
            return f"{self.url} answers {error.status_code} ({self._without_key(words)})"
        words = " ".join(str(error.__cause__ or error.message).split())[:200]
        return f"{self.url} cannot be reached ({self._without_key(words)}); see whether it runs, or mend the URL"

    def _without_key(self, words: str) -> str:
        return words.replace(self._key, "***") if self._key else words


def refuse_url(url: str) -> None:
    """Raises ValueError unless a URL is https, or http on this machine, and holds nothing but host, port and path."""
    try:
        parts = urlsplit(url)
        there = bool(parts.hostname) and parts.port != 0
    except ValueError:
        there = False
    if not there or parts.scheme not in ("http", "https"):
        raise ValueError(f"{url.rpartition('@')[2]!r} is no URL to ask; give https://vendor/v1")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ValueError(
            f"the URL of {parts.hostname} holds more than host, port and path; give a key by --key-variable alone"
        )
    if parts.scheme == "http" and parts.hostname not in LOOPBACK:
        raise ValueError(
            f"{url} would send rows and key unencrypted; give an https URL (http is for this machine only)"
        )


def key_of(variable: str) -> str:
    """The key that an environment variable holds.

    Raises:
        ValueError: naming the variable, never its value.
    """
    key = os.environ.get(variable, "").strip()
    if not key:
        raise ValueError(
            f"--key-variable {variable}: no such environment variable, or it is empty; export the key there"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ValueError(f"--key-variable {variable} holds no key of printable ASCII without blanks; export it again")
    return key


def _logprob(choice: Any) -> float | None:
    """Of the whole answer; None where a token has none, or one that is no number."""
    try:
        told = [float(token.logprob) for token in choice.logprobs.content]
    except (AttributeError, TypeError, ValueError):
        return None
    total = sum(told)
    return total if told and math.isfinite(total) and total <= 1e-3 else None

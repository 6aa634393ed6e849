"""A JSON text from a template: jinja2 in its sandbox, where every value that is put out is written as JSON.

    {"input": {{ body.question.text }}}   and   {"input": {{ body.question.text | tojson }}}   are the same

So no text of a client can break out of its place, and true, null and lists come out as JSON has them. A name that is
not there is an error. `body.items` is the key `items` and not the method of a dict (that is `body | items`). A text of
several parts is `{{ "no. " ~ body.id }}`; what is marked `safe` is put out as it stands.
"""

from __future__ import annotations

import json
from collections.abc import Set
from functools import lru_cache
from typing import Any

from jinja2 import (
    ChainableUndefined,
    StrictUndefined,
    Template,
    TemplateRuntimeError,
    TemplateSyntaxError,
    Undefined,
    UndefinedError,
    meta,
)
from jinja2.sandbox import SandboxedEnvironment
from markupsafe import Markup


def check(source: str, known: Set[str]) -> None:
    """Looks at a template that may read the names `known`.

    Raises:
        ValueError: in one sentence, if it does not compile, includes another or reads another name.
    """
    try:
        tree = _environment().parse(source)
        _compiled(source)
    except TemplateSyntaxError as error:
        raise ValueError(f"the template does not compile (line {error.lineno}: {error.message}); mend it") from None
    if any(True for _ in meta.find_referenced_templates(tree)):
        raise ValueError("the template includes another one, which is not read; write it out")
    if unknown := names_in(source) - known:
        raise ValueError(f"the template reads {min(unknown)!r}, which is not there; it has {', '.join(sorted(known))}")


def names_in(source: str) -> set[str]:
    """The names that a template looks up, jinja2's own left out."""
    environment = _environment()
    return meta.find_undeclared_variables(environment.parse(source)) - environment.globals.keys()


class NotThere(ValueError):
    """A template reads a name that is not there."""


def unknown() -> Any:
    """Stands for a value of which nothing is known yet: it has every name."""
    return ChainableUndefined(exc=TemplateRuntimeError)  # no UndefinedError, which is told as NotThere


def rendered(source: str, **values: Any) -> str:
    """The JSON text that a template makes of values.

    Raises:
        NotThere: if it reads a name that is not there.
        ValueError: with the reason, if it cannot be rendered or gives no JSON.
    """
    try:
        text = _compiled(source).render(values)
    except UndefinedError as error:
        raise NotThere(str(error)) from None
    except Exception as error:  # a template may raise anything; whose fault it is, the caller knows
        raise ValueError(str(error) or type(error).__name__) from None
    try:
        parsed(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the template gives no JSON ({error})") from None
    return text


def parsed(text: str | bytes) -> Any:
    """The value of a JSON text; NaN and the infinities, which Python would take, are none.

    Raises:
        ValueError: if it is no JSON.
    """

    def refused(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refused)


class _Environment(SandboxedEnvironment):
    """An object has keys alone: JSON has no methods."""

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, dict):
            return obj[attribute] if attribute in obj else self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


@lru_cache(maxsize=1)
def _environment() -> _Environment:
    environment = _Environment(undefined=StrictUndefined, finalize=_put_out)
    environment.filters["tojson"] = _to_json
    return environment


@lru_cache(maxsize=64)
def _compiled(source: str) -> Template:
    return _environment().from_string(source)


def _put_out(value: Any) -> Markup:
    return value if isinstance(value, Markup) else _to_json(value)


def _to_json(value: Any) -> Markup:
    def told(value: Any) -> str:
        if isinstance(value, Undefined):
            return str(value)  # raises, with the name that is not there
        raise TypeError(f"a {type(value).__name__} is no JSON value")

    return Markup(json.dumps(value, ensure_ascii=False, allow_nan=False, default=told))  # noqa: S704 - no HTML here

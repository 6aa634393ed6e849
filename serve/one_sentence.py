"""What pydantic refuses of a file that a person wrote, in one sentence: the key, its value, the rule and the fix."""

from __future__ import annotations

from collections.abc import Collection

from pydantic import ValidationError


def one_sentence(error: ValidationError, *, keys: str, unions: Collection[str] = ()) -> str:
    """The first of the errors.

    Args:
        error: of a model that refuses unknown keys.
        keys: where its keys are to be found, in words: "see `deshi schema`".
        unions: names that pydantic puts between the keys and that nobody wrote.
    """
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in unions)
    if first["type"] == "extra_forbidden":
        return f"unknown key {where!r}; remove it ({keys})"
    if first["type"] == "missing":
        return f"{where} is missing; add it ({keys})"
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "value_error":
        return f"{where}: {message}" if where else message
    return f"{where} = {first['input']!r} is not allowed: {message} ({keys})"

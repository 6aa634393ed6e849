"""How two JSON values differ, key by key.

A key is a path: `result.items[].score` is the score of any item. Kinds: `missing` (the old value alone has the key),
`extra` (the new one alone), `type` (null, boolean, number, text, list, object), which are differences in shape; and
`value`, the same type with another value. A list that is longer on one side is `missing` or `extra` at `key[]`; what
both have is compared place by place.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Literal

from pydantic import Field

from deshi.serve.kpi import Frozen

Kind = Literal["missing", "extra", "type", "value"]
WHOLE = "(whole)"  # the key of a reply that differs as a whole
TYPES = {type(None): "null", bool: "boolean", int: "number", float: "number", str: "text", list: "list", dict: "object"}
_SLACK = 1 + 1e-9  # 0.8 and 0.7 differ by 0.1, whatever their binary fractions say


class Difference(Frozen):
    """One place where two values differ."""

    key: str = Field(description="path; [] stands for any place of a list")
    kind: Kind
    old: Any = Field(None, description="null if missing there")
    new: Any = None

    @property
    def detail(self) -> str:
        """The types, where they differ."""
        return f"{type_of(self.old)} -> {type_of(self.new)}" if self.kind == "type" else ""


def differences(old: Any, new: Any, *, tolerance: float = 0.0, ignore: Collection[str] = ()) -> tuple[Difference, ...]:
    """All places where two JSON values differ, by key.

    Args:
        old: a value as `json.loads` gives it.
        new: another.
        tolerance: numbers differ if they are further apart than this.
        ignore: keys that are not looked at, nor anything under them.
    """
    found = []
    left = [("", old, new)]  # no recursion: JSON may be as deep as its parser goes
    while left:
        key, one, other = left.pop()
        if key in ignore:
            continue
        if type_of(one) != type_of(other):
            found.append(Difference(key=key or WHOLE, kind="type", old=one, new=other))
        elif isinstance(one, dict):
            for name in one.keys() | other.keys():
                below = f"{key}.{name}" if key else name
                if name in one and name in other:
                    left.append((below, one[name], other[name]))
                elif below not in ignore:
                    found.append(_on_one_side(below, one.get(name), other.get(name), missing=name in one))
        elif isinstance(one, list):
            below = f"{key}[]"
            left += [(below, a, b) for a, b in zip(one, other, strict=False)]
            if len(one) != len(other) and below not in ignore:
                found.append(_on_one_side(below, one[len(other) :], other[len(one) :], missing=len(one) > len(other)))
        elif not _equal(one, other, tolerance):
            found.append(Difference(key=key or WHOLE, kind="value", old=one, new=other))
    return tuple(sorted(found, key=lambda difference: (difference.key, difference.kind)))


def type_of(value: Any) -> str:
    """JSON's name of a value's type."""
    return TYPES[type(value)]


def _on_one_side(key: str, old: Any, new: Any, *, missing: bool) -> Difference:
    if missing:
        return Difference(key=key, kind="missing", old=old)
    return Difference(key=key, kind="extra", new=new)


def _equal(one: Any, other: Any, tolerance: float) -> bool:
    if one == other or not tolerance or type_of(one) != "number":
        return bool(one == other)
    try:
        return bool(abs(one - other) <= tolerance * _SLACK)
    except OverflowError:  # an integer that no float holds
        return False

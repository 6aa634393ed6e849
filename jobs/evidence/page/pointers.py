"""Where each part of an evidence stands in `evidence.json`: JSON pointers (RFC 6901), by the identity of the part.

The page writes the pointer beside every number, so that a reader finds the entry: value, n, interval and how it came
about. A segment is percent-encoded, as in a URI fragment, so that a pointer never holds a space. What people said lies
in another file; its parts are `review.json#/student/satisfaction`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from pydantic import BaseModel

from deshi.jobs.evidence.people.review_schema import REVIEW_FILE, Review
from deshi.jobs.evidence.schema import Evidence


def pointer(*path: str | int) -> str:
    """`/models/0/quality/drop` of its segments."""
    return "".join("/" + quote(str(part).replace("~", "~0").replace("/", "~1"), safe="") for part in path)


class Pointers:
    """Finds the pointer of any model, mapping or filled tuple of an evidence; the first place of one that recurs."""

    def __init__(self, evidence: Evidence, review: Review | None = None) -> None:
        self._living = (evidence, review)  # ids are those of living objects only
        self._found: dict[int, str] = {}
        self._walk(evidence, "")
        self._walk(review, f"{REVIEW_FILE}#")

    def of(self, part: Any, *path: str | int) -> str:
        """The pointer of a part of the evidence, or of what lies under it at `path`.

        Raises:
            KeyError: if the part is none of the evidence's own objects: then it was made by whoever asks.
        """
        return self._found[id(part)] + pointer(*path)

    def _walk(self, part: Any, here: str) -> None:
        children = children_of(part)
        if not children:
            return  # a number, a word, or an empty tuple, of which Python has only one
        self._found.setdefault(id(part), here)
        for name, child in children.items():
            self._walk(child, here + pointer(name))


def children_of(part: Any) -> Mapping[str | int, Any]:
    """Fields, keys or positions of a part with what lies there; of a number or a word none."""
    if isinstance(part, BaseModel):
        return {name: getattr(part, name) for name in type(part).model_fields}
    if isinstance(part, Mapping):
        return part
    return dict(enumerate(part)) if isinstance(part, tuple | list) else {}


def resolve(document: Any, pointer: str) -> Any:
    """What a pointer finds in the parsed `evidence.json`.

    Raises:
        LookupError: if it finds nothing.
    """
    if pointer and not pointer.startswith("/"):
        raise LookupError(f"{pointer!r} is no JSON pointer")
    for segment in pointer.split("/")[1:]:
        name = unquote(segment).replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict):
            document = document[name]
        elif isinstance(document, list) and name.isdecimal():
            document = document[int(name)]
        else:
            raise LookupError(f"{pointer!r} leads nowhere at {name!r}")
    return document

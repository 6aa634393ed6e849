"""Can an auditor go from every number on the page to its entry in `evidence.json`? The share of those that can.

A number is a run of digits that a reader sees. It is *linked* if the element around it names an entry that exists, and
*equal* if it is that entry's number to the digits shown: |shown - scale x value| <= half of the last digit. A picture
counts as one number and must name what it draws. Digits of a fixed wording ("p95", "1,000 requests") are words.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from functools import cache
from html.parser import HTMLParser
from string import Formatter
from typing import Any

import yaml

from deshi.jobs.evidence.page.pointers import resolve
from deshi.jobs.evidence.people.review_schema import REVIEW_FILE, Review
from deshi.jobs.evidence.schema import Evidence
from deshi.serve.texts import TEXTS

_NUMBER = re.compile(r"(?<![A-Za-z0-9_])[-+\N{MINUS SIGN}]?\d[\d,]*(?:\.\d+)?(?:e[-+]?\d+)?")
_VOID = frozenset({"meta", "br", "link", "img", "input", "hr", "col", "wbr"})
_UNSEEN = frozenset({"style", "script", "title", "template"})
Attributes = Mapping[str, str | None]


@dataclass(frozen=True, kw_only=True)
class LinkReport:
    """`linked` and `equal` of `total` numbers; `missing` says which are not, and why."""

    total: int
    linked: int
    equal: int
    missing: tuple[str, ...]

    @property
    def share(self) -> float:
        """Of the numbers that are linked and equal; 1 where there is none."""
        return self.equal / self.total if self.total else 1.0


def check(page: str, evidence: Evidence, review: Review | None = None) -> LinkReport:
    """Reads the page as a browser would and follows every number; `review` is what people said, if the page has it."""
    files = {"": json.loads(evidence.model_dump_json())}
    if review is not None:
        files[REVIEW_FILE] = json.loads(review.model_dump_json())
    reader = _Reader(files)
    reader.feed(page)
    reader.close()
    return LinkReport(
        total=reader.total, linked=reader.linked, equal=reader.equal, missing=tuple(dict.fromkeys(reader.missing))
    )


class _Reader(HTMLParser):
    def __init__(self, files: Mapping[str, Any]) -> None:
        super().__init__()
        self.total = self.linked = self.equal = 0
        self.missing: list[str] = []
        self._files = files
        self._open: list[tuple[str, Attributes]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "svg":
            where = found.get("data-evidence") or self._nearest()
            self._add(f"picture {found.get('aria-label')!r}", where, lambda _: True)
        if tag not in _VOID:
            self._open.append((tag, found))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop()[0] != tag:
            pass

    def handle_data(self, data: str) -> None:
        tags = {tag for tag, _ in self._open}
        if "svg" in tags or tags & _UNSEEN or not re.search(r"\d", data):
            return
        tag, attributes = self._open[-1] if self._open else ("", {})
        if tag == "data":
            self._add(data, attributes.get("data-evidence"), lambda found: _equal(data, attributes, found))
            return
        words = _wording().sub(" ", data)
        where = self._nearest()
        for number in _NUMBER.findall(words):
            self._add(f"{number} in {data.strip()[:80]!r}", where, lambda found, said=number: _said(said, found))

    def _nearest(self) -> str | None:
        """The entry that the innermost element around here names."""
        return next((found["data-evidence"] for _, found in reversed(self._open) if "data-evidence" in found), None)

    def _entry(self, pointer: str) -> Any:
        """What a pointer finds: in evidence.json, or in the file that it names before a #."""
        file, _, inside = pointer.rpartition("#")
        return resolve(self._files[file], inside)

    def _add(self, what: str, where: str | None, equals: Any) -> None:
        self.total += 1
        if where is None:
            self.missing.append(f"{what}: names no entry")
            return
        try:
            entries = [self._entry(pointer) for pointer in where.split(" ")] if where else []
        except LookupError:
            self.missing.append(f"{what}: {where} is not there")
            return
        self.linked += 1
        if not equals(entries):
            self.missing.append(f"{what}: {where} holds another")
            return
        self.equal += 1


def _equal(words: str, attributes: Attributes, entries: list[Any]) -> bool:
    """Is the number shown, and the one in `value`, the entry's own, the figure's value, or the count of the entries?"""
    number: Any = len(entries)
    if "data-count" not in attributes:
        entry = entries[0] if len(entries) == 1 else None
        number = entry.get("value") if isinstance(entry, dict) else entry
        if isinstance(number, bool) or not isinstance(number, int | float):
            return False
    shown = _NUMBER.search(words)
    if shown is None or float(attributes.get("value") or "nan") != float(number):
        return False
    said = Decimal(shown[0].replace(",", "").replace("\N{MINUS SIGN}", "-"))
    half_a_digit = Decimal(5).scaleb(int(said.as_tuple().exponent) - 1)
    scale = Decimal(attributes.get("data-scale") or "1")
    return abs(said - Decimal(repr(number)) * scale) <= half_a_digit


def _said(number: str, entries: list[Any]) -> bool:
    """Are the number's digits among those that the quoted entries hold?"""
    held: set[str] = set()
    for entry in entries:
        told = entry if isinstance(entry, str) else json.dumps(entry) + yaml.safe_dump(entry, allow_unicode=True)
        held |= set(re.findall(r"\d+", told))
    return set(re.findall(r"\d+", number)) <= held


@cache
def _wording() -> re.Pattern[str]:
    """What the table of texts says between its placeholders, where letters and digits stand together; longest first."""
    said = {literal for words in TEXTS.values() for line in words for literal, *_ in Formatter().parse(line)}
    fixed = {literal.strip() for literal in said if re.search(r"\d", literal) and re.search(r"[^\W\d_]", literal)}
    return re.compile("|".join(re.escape(literal) for literal in sorted(fixed, key=lambda each: (-len(each), each))))

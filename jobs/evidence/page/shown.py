"""Numbers and words of one evidence as markup that says where in `evidence.json` they stand.

    <data value="0.016" data-evidence="/models/0/quality/drop" data-scale="100">1.6 points</data>

`value` is the evidence's own number, `data-scale` what it was multiplied by before rounding. `data-count` marks a
count; it names each entry that it counts. Recorded words that hold digits lie in a `<span data-evidence=...>`. No
number is made here; `link_check.py` holds the page to that.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from markupsafe import Markup, escape

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.numbers import PLAIN, Style, written
from deshi.jobs.evidence.page.pointers import Pointers, children_of
from deshi.jobs.evidence.people.review_schema import Review
from deshi.jobs.evidence.schema import Evidence
from deshi.serve.texts import TEXTS, Language, text

INTEGER = Style(decimals=0)


class Shown:
    """Writes one evidence in one language."""

    def __init__(self, evidence: Evidence, pointers: Pointers, lang: Language, review: Review | None = None) -> None:
        self.evidence, self.review, self.lang, self.at = evidence, review, lang, pointers.of

    def say(self, key: str, **values: Any) -> Markup:
        """A text with its placeholders filled in; what is no markup yet is escaped."""
        if key not in TEXTS:
            return Markup(text(key, self.lang))  # noqa: S704 - raises, naming the key
        return escape(getattr(TEXTS[key], self.lang)).format(**values)

    def join(self, parts: Sequence[Any]) -> Markup:
        """Parts as a list in a sentence."""
        return escape(text("list.comma", self.lang)).join(parts)

    def number(self, parent: Any, *path: str | int, style: Style = PLAIN, unit: bool = True) -> Markup:
        """The number under `parent` at `path`; the words for "not measured" where there is none."""
        value = parent
        for name in path:
            value = children_of(value).get(name)
        if value is None:
            return self._none()
        return self._data(value, self.at(parent, *path), style, unit)

    def count(self, parent: Any, *path: str | int) -> Markup:
        """A whole number under `parent` at `path`."""
        return self.number(parent, *path, style=INTEGER)

    def size(self, entries: Sequence[Any], *path: str | int) -> Markup:
        """How many entries there are, each named by its pointer (`path` leads from an entry to a part of it)."""
        where = " ".join(self.at(entry, *path) for entry in entries)
        return Markup('<data value="{0}" data-evidence="{1}" data-count>{0:,}</data>').format(len(entries), where)

    def probability(self, parent: Any, *path: str | int) -> Markup:
        """A p-value: three significant digits, with an exponent where it is tiny."""
        value = parent
        for name in path:
            value = children_of(value)[name]
        return Markup('<data value="{}" data-evidence="{}">{:.3g}</data>').format(value, self.at(parent, *path), value)

    def length(self, parent: Any, *path: str | int) -> Markup:
        """How many entries the list under `parent` at `path` has."""
        entries = parent
        for name in path:
            entries = children_of(entries)[name]
        where = " ".join(self.at(parent, *path, i) for i in range(len(entries)))
        return Markup('<data value="{0}" data-evidence="{1}" data-count>{0:,}</data>').format(len(entries), where)

    def value(self, figure: Figure, style: Style, *, unit: bool = True) -> Markup:
        """A figure's value alone."""
        return self._none() if figure.value is None else self._data(figure.value, self.at(figure), style, unit)

    def between(self, figure: Figure, style: Style) -> Markup:
        """`0.4 to 2.8`, without the unit; an end that could not be had is infinite; empty without an interval."""
        if figure.low is None and figure.high is None:
            return Markup()
        low = "\N{MINUS SIGN}∞" if figure.low is None else self.number(figure, "low", style=style, unit=False)
        high = "∞" if figure.high is None else self.number(figure, "high", style=style, unit=False)
        return self.say("number.interval", low=low, high=high)

    def in_a_line(self, figure: Figure | None, style: Style) -> Markup:
        """A figure outside of a table: the value, and its interval in brackets beside it."""
        if figure is None or figure.value is None:
            return self.say("basis.not measured")
        between, value = self.between(figure, style), self.value(figure, style)
        if not between:
            return value
        brackets = self.say("number.in_brackets", between=between)
        return Markup('{} <span class="interval">{}</span>').format(value, brackets)

    def n(self, figure: Figure) -> Markup:
        """Observations behind a figure."""
        return Markup("–") if figure.n is None else self.count(figure, "n")

    def cell(
        self, figure: Figure | None, style: Style, *, n: bool = False, projected: str = "basis.projected"
    ) -> Markup:
        """A figure as a table shows it: value, interval under it, n if asked for, and a badge where it is projected."""
        if figure is None:
            return Markup('<span class="none">–</span>')
        if figure.value is None:
            return self._none()
        parts = [self.value(figure, style)]
        if between := self.between(figure, style):
            parts.append(Markup('<span class="interval">{}</span>').format(between))
        if n and figure.n is not None:
            parts.append(Markup('<span class="interval">{}</span>').format(self.say("number.n", n=self.n(figure))))
        if figure.basis == "projected" and projected:
            parts.append(Markup('<span class="badge projected">{}</span>').format(self.say(projected)))
        return Markup(" ").join(parts)

    def quote(self, words: str, parent: Any, *path: str | int) -> Markup:
        """Words that the evidence holds, or says in other words, with their place if there are digits in them."""
        if not re.search(r"\d", words):
            return escape(words)
        return Markup('<span data-evidence="{}">{}</span>').format(self.at(parent, *path), words)

    def _none(self) -> Markup:
        return Markup('<span class="none">{}</span>').format(self.say("basis.not measured"))

    def _data(self, value: float, where: str, style: Style, unit: bool) -> Markup:
        scale = Markup(' data-scale="{:g}"').format(style.scale) if style.scale != 1 else Markup()
        words = written(value, style, self.lang, unit=unit)
        return Markup('<data value="{}" data-evidence="{}"{}>{}</data>').format(value, where, scale, words)

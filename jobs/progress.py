"""What a run says while it works: one line a stage and a trial, with the time it took and what is left.

Lines go to standard error, so that standard output holds only the result. On a terminal they are coloured by rich;
in a log they are plain.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from deshi.jobs.evidence.business.business_words import sentences
from deshi.jobs.evidence.numbers import digits
from deshi.jobs.evidence.page.portfolio_schema import Portfolio
from deshi.jobs.evidence.schema import Evidence
from deshi.jobs.ladder import Line, Plan, most_left
from deshi.jobs.stages.candidate import Candidate


class Progress:
    """Says what happens, and keeps the wall time of each stage for the evidence."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, soft_wrap=True)
        self._began = time.perf_counter()
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str, what: str) -> Iterator[None]:
        """Announces a stage and says how long it took."""
        began = time.perf_counter()
        self._say(f"[bold]{name}[/bold]  {what}")
        yield
        self.seconds[name] = round(time.perf_counter() - began, 1)
        self._say(f"[dim]{name}  done in {_clock(self.seconds[name])}[/dim]")

    def trial(self, lines: Sequence[Line], *, plan: Plan) -> None:
        """One line for the trial that finished last."""
        line, number, trials = lines[-1], len(lines), plan.trials
        candidate = Candidate(**line["candidate"])
        what = describe(candidate)
        if line["error"]:
            self._say(f"  trial {number}/{trials}  {what}  [red]failed: {line['error']}[/red]")
            return
        self._say(
            f"  trial {number}/{trials}  {what}  validation {line['score']:.3f}  agreement {line['agreement']:.3f}  "
            f"{line['latency_ms']:.2f} ms  {line['size_mb']:.1f} MB  ({line['seconds']:.0f} s)  "
            f"search at most {_clock(most_left(plan, lines))} more"
        )

    def verdict(self, evidence: Evidence, run: str, release: str | None) -> None:
        """The verdict, its reasons, where everything lies, and what to type next; on standard output.

        `release` is None of a model behind a URL, which is not here to be served.
        """
        out = Console(highlight=False, soft_wrap=True)
        colour = {"ACCEPT": "green", "REJECT": "red", "INCONCLUSIVE": "yellow"}[evidence.verdict.decision]
        out.print(f"\n[bold {colour}]{evidence.verdict.decision}[/bold {colour}]  {evidence.name}")
        for reason in evidence.verdict.reasons:
            out.print(f"  - {reason.text}")
        out.print(_summary(evidence))
        if evidence.business:
            out.print(" ".join(sentences(evidence.business[0], "en")[:2]))
        serve = f"deshi serve {run}"
        if evidence.verdict.decision != "ACCEPT":
            serve += " --despite-verdict"
        if release is None:
            out.print(
                f"\nreport   {run}/report.html\n\nnext     deshi report {run} --lang ja\n         deshi verify {run}"
            )
            return
        out.print(f"\nreport   {run}/report.html\nrelease  {release}\n")
        out.print(f"next     {serve}\n         deshi report {run} --lang ja\n         deshi verify {run}")

    def portfolio(self, told: Portfolio, page: Path) -> None:
        """One line a PoC: verdict, saving, payback, next step; and where the page lies; on standard output."""
        out = Console(highlight=False, soft_wrap=True)
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("PoC", "verdict", "saving a month", "payback, months", "next"):
            table.add_column(name)
        for row in told.rows:
            saving, payback = (
                "" if figure is None or figure.value is None else f"{digits(figure.value)} {figure.unit}"
                for figure in (row.monthly_saving, row.payback_months)
            )
            table.add_row(row.name, row.decision or f"failed: {row.error}", saving, payback, row.command)
        out.print(table)
        out.print(
            f"\n{len(told.rows)} PoCs in {_clock(told.seconds)}, {told.overhead:.2f}x their stages\npage   {page}"
        )

    def note(self, text: str) -> None:
        """One more line."""
        self._say(f"  {text}")

    def _say(self, text: str) -> None:
        self._console.print(f"[dim]{_clock(time.perf_counter() - self._began):>6}[/dim]  {text}")


def _summary(evidence: Evidence) -> Table:
    table = Table(title=f"test rows, {evidence.score_name}", title_justify="left", box=None, padding=(0, 2, 0, 0))
    for name in ("model", "score", "drop", "size", "one text", "vs teacher"):
        table.add_column(name, justify="left" if name == "model" else "right")
    for row in evidence.models:
        place, drop = row.targets[0], row.quality.drop
        table.add_row(
            f"{row.id} ({'-'.join(row.chain)})",
            f"{row.quality.score.value:.3f}",
            "" if drop is None else f"{drop.value:+.3f} ({drop.low:+.3f} to {drop.high:+.3f})",
            "" if place.size_mb.value is None else f"{place.size_mb.value:.1f} MB",
            "" if place.engine_ms.value is None else f"{place.engine_ms.value:.2f} ms",
            "" if place.ratio_to_teacher.value is None else f"{1 / (place.ratio_to_teacher.value or 1):.1f}x",
        )
    return table


def describe(candidate: Candidate) -> str:
    """A candidate in a few words."""
    if candidate.family == "static":
        return f"static ({candidate.told})"
    width = "" if candidate.ffn == 1 else f" ffn {candidate.ffn:.0%}"
    vocabulary = "" if candidate.vocabulary == "all" else " seen vocabulary"
    return f"{candidate.order}  {candidate.layers} layers ({candidate.depth_by}){width}{vocabulary} {candidate.scheme}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"

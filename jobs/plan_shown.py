"""A plan as tables on standard output, or as JSON."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as Grid

from deshi.jobs.evidence.benches.training_cost import STAGES, RankMemory
from deshi.jobs.plan import Cost, cost
from deshi.jobs.plan_memory import USABLE, Table
from deshi.jobs.plan_stages import Cluster, StageCost
from deshi.jobs.recipe import Recipe


def show(path: Path, cluster: Cluster, *, as_json: bool) -> bool:
    """Prints what a recipe takes; true if nothing in it would be refused.

    Raises:
        ValueError: in one sentence, for a recipe that cannot be read or costed.
    """
    made = cost(Recipe.load(path), cluster)
    if as_json:
        print(json.dumps(as_data(made), indent=1))
    else:
        _print(made, cluster)
    return not made.refused


def as_data(made: Cost) -> dict[str, Any]:
    """The plan as plain data; numbers in tokens, operations, bytes, hours and business.currency."""
    data = asdict(made)
    data["total"] = asdict(made.total)
    for table, one in zip(data["memory"], made.memory, strict=True):
        for stage, memory in zip(table["stages"], one.stages, strict=True):
            stage["total"] = memory.total
    return data


def _print(made: Cost, cluster: Cluster) -> None:
    out = Console(highlight=False, soft_wrap=True)
    if not out.is_terminal:  # a file or a pipe has no width, and 80 columns would cut the numbers
        out.width = 140
    out.print(
        f"[bold]{made.recipe}[/bold]  task {made.task}  teacher {_count(made.teacher.parameters)} parameters, "
        f"student {_count(made.student.parameters)}\n"
    )
    out.print(_stages(made, cluster))
    for table in made.memory:
        out.print()
        out.print(_memory(table, cluster))
    for title, colour, sentences in (
        ("would be refused", "red", made.refused),
        ("warnings", "yellow", made.warnings),
        ("not checked here", "yellow", made.unchecked),
        ("assumed", "dim", made.assumed),
    ):
        if sentences:
            out.print(f"\n[{colour}]{title}[/{colour}]")
            for sentence in sentences:
                out.print(f"  - {sentence}", markup=False)


def _stages(made: Cost, cluster: Cluster) -> Grid:
    grid = _grid(("stage", "", "tokens", "FLOP", "devices", "hours", made.currency, "kept"), left=2)
    for row in _merged([*made.stages, made.total]):
        grid.add_row(*row)
    return grid


def _merged(rows: Sequence[StageCost]) -> list[tuple[str, ...]]:
    """The rows as text; neighbours that are equal become one with their number."""
    shown: list[tuple[StageCost, int]] = []
    for row in rows:
        if shown and shown[-1][0] == row:
            shown[-1] = (row, shown[-1][1] + 1)
        else:
            shown.append((row, 1))
    return [
        (
            row.stage,
            row.what + (f", {times} times, each" if times > 1 else ""),
            _count(row.tokens),
            f"{row.flops:.2e}" if row.flops else "",
            f"{row.devices:g}" if row.devices else "",
            "" if row.hours is None else _hours(row.hours),
            "" if row.money is None else _money(row.money),
            _bytes(row.bytes),
        )
        for row, times in shown
    ]


def _memory(table: Table, cluster: Cluster) -> Grid:
    limit = "" if cluster.gpu_memory_gb is None else f", {USABLE:.0%} of {cluster.gpu_memory_gb:g} GB may be used"
    title = f"memory of a rank, training the {table.what}, micro batch of {table.rows} rows, GB of 10^9 bytes{limit}"
    names = [f"ZeRO-{stage}{' (recipe)' if stage == table.chosen else ''}" for stage in STAGES]
    grid = _grid(("", *names), left=1, title=title)
    for name in (*(field.name for field in fields(RankMemory)), "total"):
        values = [float(getattr(stage, name)) for stage in table.stages]
        if any(values):
            grid.add_row(name, *(f"{value / 1e9:,.2f}" for value in values))
    if cluster.gpu_memory_gb is not None:
        most = USABLE * cluster.gpu_memory_gb * 1e9
        grid.add_row("fits", *("yes" if stage.total <= most else "no" for stage in table.stages))
    return grid


def _grid(names: Sequence[str], *, left: int, title: str | None = None) -> Grid:
    grid = Grid(title=title, title_justify="left", title_style="", box=None, padding=(0, 2, 0, 0))
    for number, name in enumerate(names):
        grid.add_column(name, justify="left" if number < left else "right", no_wrap=True)
    return grid


def _count(number: float) -> str:
    """Three digits and a name: 12.3 M."""
    for size, name in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f}" if number else ""


def _bytes(number: float) -> str:
    for size, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= size:
            return f"{number / size:.3g} {name}"
    return f"{number:.0f} B" if number else ""


def _money(money: float) -> str:
    return f"{money:,.0f}" if money >= 100 else f"{money:.3g}"


def _hours(hours: float) -> str:
    return f"{hours:,.1f}" if hours >= 10 else f"{hours:.3g}"

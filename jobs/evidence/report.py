"""`report.html`: the evidence as one page that opens offline, in Japanese or English, and prints on A4.

A pure function of `evidence.json`: the same evidence gives the same bytes. No number is made here: one is written
down (`numbers.py`), drawn (`figures.py`) or put in a table (`tables.py`). The page, `report.html` beside this file,
is filled with autoescape on, so that a label or a file name never becomes markup.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from pydantic import ValidationError

from deshi.jobs.evidence import figures, tables
from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.numbers import FINE_PERCENT, PERCENT, POINTS, digits, interval, style_of, written
from deshi.jobs.evidence.schema import Evidence, TargetRow
from deshi.serve.texts import LANGUAGES, Language, named, recorded, text

REPORT_FILE = "report.html"


def write(evidence_path: Path, out: Path, lang: Language) -> Path:
    """Writes the page, in one step, to a file or, if `out` is no `.html`, as `report.html` in that folder.

    Raises:
        ValueError: if there is no evidence at the path, it is not of this schema, or the language is not known.
    """
    try:
        evidence = Evidence.model_validate_json(evidence_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{evidence_path} does not exist; give the evidence.json that `deshi poc` wrote") from None
    except (ValidationError, UnicodeDecodeError) as error:
        first = " ".join(str(error).split())[:200]
        raise ValueError(f"{evidence_path} is no evidence of this version ({first}); run `deshi poc` again") from None
    page = render(evidence, lang)
    path = out if out.suffix == ".html" else out / REPORT_FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}")
    unfinished.write_text(page, encoding="utf-8")
    return unfinished.replace(path)


def render(evidence: Evidence, lang: Language) -> str:
    """The whole page as text.

    Raises:
        ValueError: if the language is not known.
    """
    if lang not in LANGUAGES:
        raise ValueError(f"language {lang!r} is not known; use one of {', '.join(LANGUAGES)}")
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(REPORT_FILE).render(_view(evidence, lang))


def _view(e: Evidence, lang: Language) -> dict[str, Any]:
    """Everything the page asks for: the evidence, words, ways to write a number, pictures, tables."""
    chosen, teacher = tables.of_role(e, "chosen"), tables.of_role(e, "teacher")
    kpi = e.recipe.get("kpi", {})
    return {
        "e": e,
        "lang": lang,
        "chosen": chosen,
        "teacher": teacher,
        "places": [(place, tables.place_of(teacher, place.target)) for place in chosen.targets] if chosen else [],
        "classifies": e.task == "classify",
        "margin": figures.margin_of(e),
        "latency_limits": kpi.get("latency_ms_p95", {}),
        "size_limit": kpi.get("size_mb"),
        "confidence": f"{digits(100 * kpi.get('quality', {}).get('confidence', 0.95))}%",
        "peak_rps": digits(e.recipe.get("business", {}).get("peak_rps", 0)),
        "test_rows": _one_n([row.quality.score for row in e.models]),
        "projected": {table["name"] for table in tables.targets(e, lang) if table["projected"]},
        "created": e.created.removesuffix("Z").removesuffix("+00:00").replace("T", " ")[:16] + " UTC",
        "first_target": next((place.target for row in e.models for place in row.targets), "–"),
        "task": named("page.task", e.task, lang),
        "score_name": named("score", e.score_name, lang),
        # ways to write
        "t": lambda key, **values: text(key, lang, **values),
        "named": partial(named, lang=lang),
        "written": partial(written, lang=lang),
        "between": partial(interval, lang=lang),
        "unit": style_of,
        "percent": PERCENT,
        "fine_percent": FINE_PERCENT,
        "points": POINTS,
        "money": style_of(e.currency),
        "name": partial(figures.model_name, e, lang=lang),
        "chain": partial(tables.chain, lang=lang),
        "kpi_name": partial(tables.kpi_name, lang=lang),
        "kpi_style": tables.kpi_style,
        "of_teacher": partial(_of_teacher, lang=lang),
        "slice_status": lambda row: figures.drop_status(row.drop.low, row.drop.high, figures.margin_of(e)),
        "recorded": partial(recorded, lang=lang),
        "builds": tables.builds,
        # pictures: markup of our own making, in which matplotlib has escaped every word
        "pictures": {
            "pareto_latency": Markup(figures.pareto(e, lang, "latency_ms")),  # noqa: S704
            "pareto_size": Markup(figures.pareto(e, lang, "size_mb")),  # noqa: S704
            "waterfall": Markup(figures.waterfall(e, lang)),  # noqa: S704
            "drops": Markup(figures.drops(e, lang)),  # noqa: S704
            "latency": Markup(figures.latency_split(e, lang)),  # noqa: S704
        },
        "part_colours": figures.PART_COLOURS,
        # tables and lists
        "reasons": [tables.reason(reason, lang) for reason in e.verdict.reasons],
        "notices": tables.notices(chosen, lang),
        "limits": tables.limits(e, chosen, lang),
        "measures": tables.measures(e, lang),
        "slices": tables.slices(e, chosen),
        "targets": tables.targets(e, lang),
        "methods": tables.methods(e, lang),
        "removed": tables.removed(e, lang),
        "data": tables.data(e, chosen, lang),
        "origin": tables.origin(e, lang),
        "recipe": tables.recipe(e),
    }


def _of_teacher(place: TargetRow | None, field: str, *, lang: Language) -> str:
    """`teacher 6.2 ms`: the teacher's figure beside the chosen model's."""
    found = getattr(place, field, None)
    figure: Figure | None = found.p95 if field == "latency" and found is not None else found
    if figure is None or figure.value is None:
        return text("tile.no_teacher", lang)
    return text("tile.teacher", lang, value=written(figure.value, style_of(figure.unit), lang))


def _one_n(scores: Sequence[Figure]) -> str:
    """The number of rows, if all scores have the same; then it stands in the table's head."""
    counts = {figure.n for figure in scores}
    return f"{count:,}" if len(counts) == 1 and (count := counts.pop()) is not None else ""

"""`report.html`: the evidence as one page that opens offline, in Japanese and English, and prints on A4.

A pure function of `evidence.json`: the same evidence gives the same bytes. No number is made here: one is written
down (`shown.py`), drawn (`figures.py`, `pareto.py`) or put in a table (`tables.py`). The page, `page/page.html`, holds
both languages and a switch between them; `page/view.html` is one language, a partial for each section. They are filled
with autoescape on, so that a label or a file name never becomes markup.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape
from markupsafe import Markup
from pydantic import ValidationError

from deshi.jobs.evidence.business import account_shown
from deshi.jobs.evidence.numbers import FINE_PERCENT, PERCENT, POINTS, Style, style_of
from deshi.jobs.evidence.page import facts, figures, first_screen, tables
from deshi.jobs.evidence.page.limits import limits
from deshi.jobs.evidence.page.methods import methods, risk_figures
from deshi.jobs.evidence.page.pareto import pareto
from deshi.jobs.evidence.page.pointers import Pointers
from deshi.jobs.evidence.page.shown import Shown
from deshi.jobs.evidence.people.review_schema import Review
from deshi.jobs.evidence.schema import Evidence, ModelRow, SliceRow
from deshi.serve.durable import in_one_step
from deshi.serve.texts import LANGUAGES, Language, named, recorded, text

PAGE_FOLDER = Path(__file__).parent / "templates"
CONFIDENCE = Style(scale=100, suffix="%", spaced=False)


def read(evidence_path: Path) -> Evidence:
    """The evidence at a path.

    Raises:
        ValueError: if there is none, or it is not of this schema.
    """
    try:
        return Evidence.model_validate_json(evidence_path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{evidence_path} does not exist; give the evidence.json that `deshi poc` wrote") from None
    except (ValidationError, UnicodeDecodeError) as error:
        words = " ".join(str(error).split())[:200]
        raise ValueError(f"{evidence_path} is no evidence of this version ({words}); run `deshi poc` again") from None


def put(content: bytes, path: Path) -> Path:
    """Writes a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with in_one_step(path) as partial:
        partial.write_bytes(content)
    return path


def render(evidence: Evidence, first: Language, review: Review | None = None) -> str:
    """The whole page as text, the language `first` shown until a reader switches; `review` is what people said.

    Raises:
        ValueError: if the language is not known.
    """
    known(first)
    pages = templates()
    # As it is read from the file: there a figure that two rows share is two figures, each with its own place.
    evidence = Evidence.model_validate_json(evidence.model_dump_json())
    pointers = Pointers(evidence, review)
    shown = [Shown(evidence, pointers, lang, review) for lang in LANGUAGES]
    views = [(s.lang, Markup(pages.get_template("view.html").render(view(s)))) for s in shown]  # noqa: S704
    return bound(pages, views, first, title="page.title", name=evidence.name)


def bound(
    pages: Environment, views: Sequence[tuple[Language, Markup]], first: Language, *, title: str, name: str = ""
) -> str:
    """One page of the languages' views, the language `first` shown until a reader switches; `title` is a text."""
    return pages.get_template("page.html").render(views=views, first=first, title=title, name=name, t=text)


def known(lang: str) -> None:
    """Refuses a language that no text has.

    Raises:
        ValueError: naming those that there are.
    """
    if lang not in LANGUAGES:
        raise ValueError(f"language {lang!r} is not known; use one of {', '.join(LANGUAGES)}")


def templates(folder: Path = PAGE_FOLDER) -> Environment:
    """A folder of templates, with autoescape for all but Markdown, which has no markup to escape."""
    return Environment(
        loader=FileSystemLoader(folder),
        autoescape=select_autoescape(("html", "css")),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def view(s: Shown) -> dict[str, Any]:
    """All that one language's templates ask for: the evidence, words, ways to write a number, pictures, tables."""
    e, lang = s.evidence, s.lang
    chosen, teacher = e.model_row("chosen"), e.model_row("teacher")
    return {
        "e": e,
        "lang": lang,
        "s": s,
        "chosen": chosen,
        "teacher": teacher,
        "classifies": e.task == "classify",
        "created": s.quote(_when(e.created), e, "created"),
        "first_target": _first_target(s),
        "task": named("page.task", e.task, lang),
        "score_name": named("score", e.score_name, lang),
        "test_rows": _one_n(s),
        "notation": _notation(s),
        "peak_rps": s.number(e.recipe, "business", "peak_rps"),
        # ways to write
        "t": s.say,
        "cell": s.cell,
        "quote": s.quote,
        "number": s.number,
        "count": s.count,
        "named": partial(named, lang=lang),
        "recorded": partial(recorded, lang=lang),
        "unit": style_of,
        "percent": PERCENT,
        "fine_percent": FINE_PERCENT,
        "points": POINTS,
        "name": partial(_name, s),
        "command": Markup("<code>{} {}</code>").format,
        "chain": partial(tables.chain, s=s),
        "kpi_name": partial(tables.kpi_name, s=s),
        "kpi_style": tables.kpi_style,
        "slice_name": partial(tables.slice_name, s=s),
        "slice_status": partial(_slice_status, figures.margin_of(e)),
        "builds": partial(tables.builds, s=s),
        "risk_style": first_screen.risk_style,
        "risk_words": partial(first_screen.risk_words, s=s),
        "account": account_shown,
        # first screen
        "answers": first_screen.answers(s),
        "worries": first_screen.top_risks(s),
        "steps": first_screen.next_steps(s),
        "reasons": [
            Markup('<span data-evidence="{}">{}</span>').format(s.at(each), tables.reason(each, lang))
            for each in e.verdict.reasons
        ],
        "notices": tables.notices(chosen, s),
        "limits": limits(chosen, s),
        # pictures: markup of our own making, in which matplotlib has escaped every word
        "pictures": {
            name: _picture(svg, part, s)
            for name, svg, part in (
                ("pareto_latency", pareto(e, lang, "latency_ms"), e.front),
                ("pareto_size", pareto(e, lang, "size_mb"), e.front),
                ("waterfall", figures.waterfall(e, lang), e.waterfall),
                ("drops", figures.drops(e, lang), e.models),
                ("latency", figures.latency_split(e, lang), e.models),
            )
        },
        "part_colours": figures.PART_COLOURS,
        # tables and lists
        "measures": tables.measures(e, lang),
        "slices": tables.slices(e, chosen),
        "targets": list(tables.targets(e, s)),
        "review": s.review,
        "run": first_screen.run_of(s),
        "risk_figures": [] if e.risk is None else list(risk_figures(e.risk, s)),
        "methods": methods(s),
        "removed": facts.removed(s),
        "data": facts.data(chosen, s),
        "origin": facts.origin(s),
        "recipe": facts.recipe(e),
    }


def _picture(svg: str, part: Any, s: Shown) -> Markup:
    """A picture in a box that names what it draws."""
    if not svg:
        return Markup()
    return Markup('<div class="picture" tabindex="0" data-evidence="{}">{}</div>').format(s.at(part), Markup(svg))  # noqa: S704


def _name(s: Shown, row: ModelRow) -> Markup:
    return s.quote(figures.model_name(s.evidence, row, s.lang), row, "id")


def _slice_status(margin: float | None, row: SliceRow) -> str:
    return "harmed" if row.harmed else figures.drop_status(row.drop.low, row.drop.high, margin)


def _first_target(s: Shown) -> Markup | str:
    """The target by which the stages were timed."""
    place = next((place for row in s.evidence.models for place in row.targets), None)
    return s.quote(place.target, place, "target") if place is not None else "–"


def _one_n(s: Shown) -> Markup | None:
    """The number of test rows, if all scores have the same; then it stands in the table's head."""
    scores = [row.quality.score for row in s.evidence.models]
    if len({figure.n for figure in scores}) != 1 or scores[0].n is None:
        return None
    return s.n(scores[0])


def _notation(s: Shown) -> Markup:
    """How to read a range and a point."""
    if s.evidence.recipe.get("kpi", {}).get("quality", {}).get("confidence") is None:
        return s.say("page.notation_plain")
    confidence = s.number(s.evidence.recipe, "kpi", "quality", "confidence", style=CONFIDENCE)
    return s.say("page.notation", confidence=confidence)


def _when(created: str) -> str:
    return created.removesuffix("Z").removesuffix("+00:00").replace("T", " ")[:16] + " UTC"

"""The page: whole, well formed, offline, deterministic, safe against hostile text, and complete in both languages."""

from __future__ import annotations

import ast
import re
import runpy
from collections import Counter
from collections.abc import Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pydantic import BaseModel

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.numbers import PERCENT, POINTS, digits, interval, style_of, written
from deshi.jobs.evidence.page import formats, report, tables
from deshi.jobs.evidence.schema import Evidence, Reason, Removed, Verdict
from deshi.jobs.evidence.verdict import SENTENCES
from deshi.jobs.stages import orders
from deshi.serve.texts import recorded

build_evidence = runpy.run_path(str(Path(__file__).parents[1] / "evidence_fixture.py"))["build_evidence"]
whole = cache(lambda lang: report.render(build_evidence(), lang))
BOTH = ("ja", "en")
VOID = {"meta", "br", "link", "img", "input", "hr"}
LANGUAGES = pytest.mark.parametrize("lang", ["ja", "en"])


class Page(HTMLParser):
    """Reads a page strictly: every tag closed in order; keeps what the tests ask about.

    Words and values are those of one language, or of both.
    """

    def __init__(self, page: str, lang: str | None = None) -> None:
        super().__init__()
        self.lang, self.inside = lang, lang is None
        self.open: list[str] = []
        self.ids: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str | None]] = []
        self.values: set[float] = set()
        self.words: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        if tag == "article" and self.lang is not None:
            self.inside = dict(attrs)["lang"] == self.lang
        for name, value in attrs:
            self.attributes.append((tag, name, value))
            if name == "id":
                self.ids.append(value or "")
            if tag == "data" and name == "value" and self.inside:
                self.values.add(float(value or "nan"))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        self.handle_endtag(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing at {self.getpos()}"

    def handle_data(self, data: str) -> None:
        if self.inside and "body" in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def _figures(part: Any) -> Iterator[Figure]:
    if isinstance(part, Figure):
        yield part
    elif isinstance(part, BaseModel):
        for name in type(part).model_fields:
            yield from _figures(getattr(part, name))
    elif isinstance(part, tuple):
        for item in part:
            yield from _figures(item)


@LANGUAGES
def test_every_figure_stands_on_the_page_with_its_interval(lang):
    evidence = build_evidence()
    page = Page(whole(lang), lang)
    figures = list(_figures(evidence))
    assert len(figures) > 300
    missing = [figure for figure in figures if figure.value is not None and figure.value not in page.values]
    assert missing == []
    for figure in (
        evidence.model_row("chosen").targets[0].latency.p95,
        evidence.model_row("chosen").quality.drop,
    ):
        style = POINTS if figure.unit == "share" else style_of(figure.unit)
        assert interval(figure, style, lang).replace(" ", "") in page.text.replace(" ", "")
        assert figure.how in page.text


@LANGUAGES
def test_the_page_is_well_formed_and_opens_offline(lang):
    source = whole(lang)
    page = Page(source)
    assert [name for name, count in Counter(page.ids).items() if count > 1] == []
    assert page.tags["script"] == page.tags["link"] == page.tags["img"] == page.tags["iframe"] == 0
    assert page.tags["svg"] == 10 and page.tags["article"] == 2
    assert all(name.startswith(("ja", "en")) for name in page.ids)
    assert "http:" not in source and "https:" not in source and "@import" not in source
    for _, name, value in page.attributes:
        if name in ("src", "href", "xlink:href", "action", "srcset", "poster", "data"):
            assert value is not None and value.startswith("#") and value[1:] in page.ids
        assert not name.startswith("on")
    assert re.findall(r'id="(\w+)"[^>]* checked', source) == [lang]
    targets = re.findall(r"url\(([^)]*)\)", source)
    assert targets and all(target.startswith("#") and target[1:] in page.ids for target in targets)
    assert len(source.encode()) < 2_000_000


def test_the_bytes_are_the_same_every_time():
    for lang in ("ja", "en"):
        assert report.render(Evidence.model_validate_json(build_evidence().model_dump_json()), lang) == whole(lang)


def test_hostile_text_never_becomes_markup():
    hostile = "<script>alert(1)</script>\"'&{{ 7*7 }}$x$"
    evidence = build_evidence()
    chosen = evidence.model_row("chosen")
    slices = tuple(row.model_copy(update={"value": hostile, "column": hostile}) for row in chosen.quality.slices)
    quality = chosen.quality.model_copy(update={"slices": slices})
    evidence = build_evidence(
        name=hostile,
        data=evidence.data.model_copy(update={"classes": (hostile, "b")}),
        models=(
            chosen.model_copy(update={"quality": quality}),
            evidence.models[1],
            evidence.models[2].model_copy(update={"id": hostile}),
        ),
        waterfall=tuple(step.model_copy(update={"stage": hostile}) for step in evidence.waterfall),
        machine={hostile: hostile},
        verdict=Verdict(decision="ACCEPT", reasons=(Reason(code=hostile, text=hostile),)),
        licences={"teacher": hostile},
        how={hostile: hostile},
    )
    source = report.render(evidence, "ja")
    for lang in BOTH:
        page = Page(source, lang)
        assert page.tags["script"] == 0 and "<script" not in source
        assert "49" not in {word for word in page.words if "alert" in word}
        assert page.text.count("<script>alert(1)</script>") >= 10


@pytest.mark.parametrize("decision", ["ACCEPT", "REJECT", "INCONCLUSIVE"])
def test_the_verdict_comes_first(decision):
    verdict = Verdict(decision=decision, reasons=(Reason(code="unheard of", text="one reason"),), rows_needed=4321)
    source = report.render(build_evidence(verdict=verdict, models=(), front=(), waterfall=()), "ja")
    words = {"ja": {"ACCEPT": "採用", "REJECT": "不採用", "INCONCLUSIVE": "判定保留"},
             "en": {"ACCEPT": "Accept", "REJECT": "Reject", "INCONCLUSIVE": "Inconclusive"}}  # fmt: skip
    for lang in BOTH:
        page = Page(source, lang).text
        place = page.index(f" {words[lang][decision]} ")
        assert place < page.index("one reason") < page.index("4,321") < page.index("KPI")
        assert place < 200


def _bare(evidence: Evidence) -> dict[str, Any]:
    """All that may be missing, missing."""
    models = []
    for row in evidence.models:
        nothing = {"latency": None, "throughput_rps": None, "memory_mb": None, "machines": None,
                   "cost_per_1000": None, "cost_per_1000_full_use": None}  # fmt: skip
        targets = tuple(target.model_copy(update=nothing) for target in row.targets)
        quality = row.quality.model_copy(
            update={
                "slices": (),
                "kl": None,
                "agreement": None,
                "mcnemar_p": None,
                "unknown_token_rate": None,
            }
        )
        models.append(row.model_copy(update={"targets": targets, "quality": quality}))
    return {"models": tuple(models), "front": (), "waterfall": (), "orders": (), "kpis": (), "removed": Removed(),
            "business": (), "risk": None,
            "how": {}, "seconds": {}, "licences": {}, "machine": {}, "versions": {}, "recipe": {}}  # fmt: skip


def test_what_is_missing_is_said_and_not_invented():
    source = report.render(build_evidence(**_bare(build_evidence())), "ja")
    said = {
        "ja": ("未測定", "探索の記録がありません", "KPIの記録がありません", "区分は指定されていません",
               "費用と効果の計算がありません", "リスクの測定がありません", "費用は計算できません"),
        "en": ("not measured", "holds no trial", "holds no KPI row", "names no slice", "holds no account",
               "no measurement of risk", "no cost can be computed"),
    }  # fmt: skip
    for lang in BOTH:
        page = Page(source, lang)
        assert page.tags["svg"] == 2
        assert all(words in page.text for words in said[lang])


def test_a_reject_without_any_candidate_still_renders():
    evidence = build_evidence()
    front = tuple(point.model_copy(update={"chosen": False, "on_front": False}) for point in evidence.front)
    models = tuple(row for row in evidence.models if row.role != "chosen")
    verdict = Verdict(decision="REJECT", reasons=())
    source = report.render(build_evidence(models=models, front=front, waterfall=(), verdict=verdict), "ja")
    assert "候補モデルの結果は記録にありません" in Page(source, "ja").text
    assert "holds no candidate" in Page(source, "en").text
    Page(report.render(build_evidence(models=(), verdict=verdict), "ja"))


def test_a_static_or_undistilled_winner_is_called_that():
    evidence = build_evidence()
    static = evidence.model_row("static").model_copy(update={"id": "chosen", "role": "chosen"})
    source = report.render(build_evidence(models=(static, evidence.models[1]), front=()), "ja")
    assert "静的モデルです" in Page(source, "ja").text and "This model is static" in Page(source, "en").text
    quantized = evidence.model_row("quantize-only").model_copy(update={"id": "chosen", "role": "chosen"})
    source = report.render(build_evidence(models=(quantized, evidence.models[1]), front=()), "ja")
    assert "蒸留で作ったものではありません" in Page(source, "ja").text
    assert "was not distilled" in Page(source, "en").text


def test_a_projected_target_is_marked_wherever_it_stands():
    evidence = build_evidence()
    measured = tuple(row.model_copy(update={"targets": row.targets[:2]}) for row in evidence.models)
    source = report.render(build_evidence(models=measured, front=(), business=()), "ja")
    for lang, projected in (("ja", "推定・未測定"), ("en", "projected, never measured")):
        assert whole("ja").count(f'<span class="badge projected">{projected}') >= 3
        assert projected not in Page(source, lang).text


def test_the_engine_of_each_shape_class_is_named():
    page = Page(whole("ja"), "ja").text
    assert page.count("32件・長文 openvino-w8a8") == 3 and page.count("1件・短文 onnxruntime-w8a8") == 2


def test_every_reason_of_a_verdict_has_words_of_its_own_in_both_languages():
    for code, sentence in SENTENCES.items():
        values = {name: f"<{name}>" for name in re.findall(r"{(\w+)}", sentence)} | {"unit": "ms", "limit": "<limit>"}
        spoken = Reason(code=code, values=values, text="as recorded")
        for lang in ("ja", "en"):
            said = tables.reason(spoken, lang)
            assert said != "as recorded" and bool(re.search("[\u3040-\u30ff]", said)) == (lang == "ja")
            assert all(f"<{name}>" in said for name in ("value", "low", "high", "target") if name in values), code
    assert tables.reason(Reason(code="unheard of", text="as recorded"), "ja") == "as recorded"


def _notes_of_splits() -> list[str]:
    """All that a split has to say: repeated and undecided rows, few and many unlabelled ones."""
    from deshi.jobs.data.split import split_rows

    def rows(texts, labels):
        return pa.table({"row": range(len(texts)), "text": texts, "label": pa.array(labels, pa.string())})

    kinds = ("who wrote number", "where is number")
    texts = [f"{kinds[n % 2]} {n} {chr(97 + n % 26) * 5}" for n in range(240)]
    labels = ["ab"[n % 2] for n in range(240)]
    test = rows([f"test {text}" for text in texts[:60]], labels[:60])
    dirty = rows([*texts, texts[0], "both?", "both?", texts[2] + "!"], [*labels, "a", "a", "b", "a"])
    few = split_rows(dirty, test, seed=0)
    many = split_rows(rows(texts, [*labels[:100], *[None] * 140]), test, seed=0)
    assert len(few.notes) >= 4 and few.notes[-1] != many.notes[-1]
    return [*few.notes, *many.notes]


def _constants(name: str) -> Iterator[dict[str, str]]:
    """The tables BITS and HOW of a module."""
    source = ast.parse((Path(report.__file__).parents[2] / name).read_text(encoding="utf-8"))
    told = {node.targets[0].id: node.value for node in source.body if isinstance(node, ast.Assign)}
    return (ast.literal_eval(told[name]) for name in ("BITS", "HOW") if name in told)


def test_what_our_programs_record_is_told_in_japanese():
    whys = {orders.legal(order.chain, parent_kept=kept) for order in orders.ORDERS.values() for kept in (True, False)}
    whys.discard(None)
    assert len(whys) >= 2
    rows = build_evidence().orders
    orders_shown = (rows[-1].model_copy(update={"illegal": min(whys)}),)
    page = Page(report.render(build_evidence(orders=orders_shown), "ja"), "ja").text
    assert min(whys) not in page and recorded(min(whys), "ja") in page
    # Read, not imported: these modules need Ray, and only their words are asked about.
    (bits,), *hows = (list(_constants(name)) for name in ("evidence/story.py", "classify.py", "generate.py"))
    known = [*whys, *bits.values()]
    known += [words for (how,) in hows for topic, words in how.items() if topic != "intervals"]
    known += _notes_of_splits()
    for words in known:
        assert re.search("[\u3040-\u30ff\u4e00-\u9fff]", recorded(words, "ja")), words


def test_a_harmed_slice_comes_first_and_is_called_that():
    page = Page(whole("en"), "en").text
    table = page[page.index("Quality by slice") :]
    assert table.index("NUM:date") < table.index("DESC:def")
    assert "harmed harm test p = 0.0123" in table


@pytest.mark.parametrize(
    ("value", "style", "said"),
    [
        (0.8423, PERCENT, "84.2%"),
        (0.0160, POINTS, "1.6\u00a0points"),
        (-0.004, POINTS, "\u22120.4\u00a0points"),
        (-0.0001, POINTS, "0.0\u00a0points"),
        (0.7791, style_of("ms"), "0.779\u00a0ms"),
        (48.26, style_of("ms"), "48.3\u00a0ms"),
        (1234.6, style_of("MB"), "1,235\u00a0MB"),
        (0.00398, style_of("JPY"), "0.00398\u00a0JPY"),
        (0, style_of("ms"), "0\u00a0ms"),
        (None, style_of("ms"), "not measured"),
    ],
)
def test_numbers_are_written_as_a_person_would(value, style, said):
    assert written(value, style, "en") == said


def test_digits_of_what_is_no_number():
    assert digits(float("inf")) == "∞" and digits(float("nan")) == "?"


def test_write_puts_one_file_in_one_step_and_refuses_bad_input(tmp_path):
    source = tmp_path / "evidence.json"
    with pytest.raises(ValueError, match=r"does not exist; give the evidence\.json"):
        formats.write(source, tmp_path / "out", "ja")
    source.write_text('{"schema_version": 9}', encoding="utf-8")
    with pytest.raises(ValueError, match="no evidence of this version"):
        formats.write(source, tmp_path / "out", "ja")
    assert not (tmp_path / "out").exists()
    source.write_text(build_evidence().model_dump_json(), encoding="utf-8")
    with pytest.raises(ValueError, match="'fr' is not known; use one of ja, en"):
        formats.write(source, tmp_path / "out", "fr")
    path = formats.write(source, tmp_path / "out", "ja")
    assert formats.write(source, tmp_path / "other" / "manager.html", "en") == tmp_path / "other" / "manager.html"
    assert [entry.name for entry in (tmp_path / "out").iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == whole("ja")
    assert Page(whole("ja"), "en").text == Page(whole("en"), "en").text

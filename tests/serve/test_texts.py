"""The table of words: every key in both languages, with the same placeholders; what is asked for is there."""

from __future__ import annotations

import re
from pathlib import Path
from string import Formatter

import pytest

from deshi.jobs.evidence.page import report
from deshi.serve import texts
from deshi.serve.texts import LANGUAGES, TEXTS, Text, named, recorded, text


def _placeholders(words: str) -> set[str]:
    return {field for _, field, _, _ in Formatter().parse(words) if field is not None}


def test_every_key_is_said_in_every_language():
    assert Text._fields == LANGUAGES
    for key, words in TEXTS.items():
        assert all(said.strip() for said in words), key


def test_placeholders_agree():
    for key, words in TEXTS.items():
        assert _placeholders(words.ja) == _placeholders(words.en), key
        assert all(re.fullmatch(r"[a-z_0-9]+", field) for field in _placeholders(words.ja)), key


def test_sentences_for_a_japanese_reader_are_japanese():
    untranslated = {key for key, words in TEXTS.items() if not re.search(r"[\u3040-\u30ff\u4e00-\u9fff]", words.ja)}
    allowed = {"number.n", "number.interval", "quantity.score", "list.arrow", "list.parts", "list.comma",
               "list.colon", "number.in_brackets", "portfolio.name",
               "kpi.on", "quality.score_n",
               "quantity.kpi", "unit.per_1000", "origin.machine.platform", "origin.machine.gpu"}  # fmt: skip
    assert untranslated <= allowed


def test_a_missing_key_and_a_missing_value_are_errors():
    with pytest.raises(KeyError, match=r"no text is called 'verdict\.MAYBE'"):
        text("verdict.MAYBE", "ja")
    with pytest.raises(KeyError, match="low"):
        text("number.interval", "en", high="1")


def test_values_are_not_read_as_placeholders():
    assert text("model.static", "ja") == "静的モデル"
    assert text("kpi.at most", "en", value="{secret} 7 ms") == "at most {secret} 7 ms"
    assert named("stage", "distill", "ja") == "蒸留"
    assert named("stage", "{0}", "ja") == "{0}"


def test_every_key_that_code_and_page_name_is_in_the_table():
    room = Path(report.__file__).parents[1]
    asked: set[str] = set()
    for path in [*room.rglob("*.py"), *room.glob("page/templates/*"), *Path(texts.__file__).parent.glob("*.py")]:
        source = path.read_text(encoding="utf-8")
        asked |= set(re.findall(r"""\b(?:text|t)\(\s*["']([a-z_0-9. A-Z-]+)["']\s*[,)]""", source))
    assert len(asked) > 100
    assert asked <= set(TEXTS)


def test_a_record_is_read_back_into_the_readers_language():
    how = "as measured on 'onprem', assuming that 8 threads are no slower"
    how += "; open loop, 20 rps for 6 s on loopback, 119 of 120 answered"
    said = recorded(how, "ja")
    assert "onprem" in said and "8スレッド" in said and "毎秒20件を6秒間" in said and "120件中119件" in said
    assert recorded(how, "en") == how
    assert recorded("fine = a; b; paired bootstrap over the slice's test rows", "ja").startswith("fine = a。b。")
    assert recorded("nobody's sentence", "ja") == "nobody's sentence"
    assert recorded("", "ja") == ""


def test_every_record_reads_itself_back():
    for key, words in TEXTS.items():
        if key.startswith("record."):
            filled = words.en.format(**{name: f"<{name}>" for name in _placeholders(words.en)})
            assert recorded(filled, "en") == filled
            assert recorded(filled, "ja") == words.ja.format(**{name: f"<{name}>" for name in _placeholders(words.ja)})

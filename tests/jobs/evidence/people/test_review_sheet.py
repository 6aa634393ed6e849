"""The sheets tell nobody whose answer is whose, run nowhere but here, and come back as they were meant."""

from __future__ import annotations

import io
import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from openpyxl import load_workbook
from scipy import stats

from deshi.jobs.evidence.people.review_answers import ratings_of
from deshi.jobs.evidence.people.review_sample import Pair, coin, draw, shown
from deshi.jobs.evidence.people.review_sheet import page, workbook

fixture = runpy.run_path(str(Path(__file__).parents[1] / "review_fixture.py"))
RELEASE, pairs_of, everything = fixture["RELEASE"], fixture["pairs_of"], fixture["everything"]
FILLED = pytest.mark.parametrize("filled, name", [("filled_workbook", "a.xlsx"), ("saved_csv", "a.csv")])


@pytest.fixture
def asked():
    """100 rows of which 12 differ, and the key to 20 items."""
    pairs = pairs_of(100, range(12))
    return pairs, draw(pairs, items=20, seed=3, release=RELEASE)


@pytest.mark.parametrize(
    "rows, differing, items, of_differing, drawn",
    [(100, 30, 20, 10, 20), (100, 4, 20, 4, 20), (100, 95, 20, 15, 20), (6, 6, 20, 6, 6), (100, 0, 20, 0, 20)],
)
def test_differing_rows_make_up_half_where_there_are_enough(rows, differing, items, of_differing, drawn):
    key = draw(pairs_of(rows, range(differing)), items=items, seed=1, release=RELEASE)
    assert sum(item.differs for item in key.items) == of_differing
    assert len({item.row for item in key.items}) == len(key.items) == drawn
    assert all(item.differs == (item.row < differing) for item in key.items)
    assert (key.rows, key.rows_differing) == (rows, differing)


def test_the_leading_items_are_a_random_sample_too():
    pairs = pairs_of(200, range(60))
    firsts = [draw(pairs, items=40, seed=seed, release=RELEASE).items[0].differs for seed in range(400)]
    assert stats.binomtest(sum(firsts), 400, 0.5).pvalue > 1e-3


def test_the_coin_is_fair_and_follows_no_pattern():
    letters = np.array([coin(RELEASE, 7, row) == "A" for row in range(4000)])
    assert stats.binomtest(int(letters.sum()), 4000, 0.5).pvalue > 1e-3
    for lag in (1, 2, 3):  # neighbours agree half of the time
        same = letters[lag:] == letters[:-lag]
        assert stats.binomtest(int(same.sum()), len(same), 0.5).pvalue > 1e-3
    other = np.array([coin("cd" * 32, 7, row) == "A" for row in range(4000)])
    assert stats.binomtest(int((letters == other).sum()), 4000, 0.5).pvalue > 1e-3


def _cells(book: bytes) -> list[list[object]]:
    return [list(row) for row in load_workbook(io.BytesIO(book)).worksheets[0].iter_rows(values_only=True)]


def test_a_sheet_is_the_same_whoever_gave_the_answers(asked):
    pairs, key = asked
    swapped = [Pair(row=pair.row, text=pair.text, student=pair.teacher, teacher=pair.student) for pair in pairs]
    letters = {"A": "B", "B": "A"}
    other = key.model_copy(
        update={"items": tuple(item.model_copy(update={"student": letters[item.student]}) for item in key.items)}
    )
    settings = {"name": "fixture", "release": RELEASE}
    assert page(shown(pairs, key), **settings) == page(shown(swapped, other), **settings)
    assert _cells(workbook(shown(pairs, key), **settings)) == _cells(workbook(shown(swapped, other), **settings))
    assert page(shown(pairs, key), **settings) != page(shown(pairs, other), **settings)


def test_no_word_of_a_sheet_names_a_model(asked):
    pairs, key = asked
    html = page(shown(pairs, key), name="fixture", release=RELEASE)
    words = html + repr(_cells(workbook(shown(pairs, key), name="fixture", release=RELEASE)))
    assert not re.search(r"教師|生徒|teacher|student|chosen|distil|baseline|小さい|original", words, re.I)
    assert set(re.findall(r"\b[0-9a-f]{16,}\b", words)) <= {RELEASE, RELEASE[:16]}


def test_the_page_loads_nothing_and_shows_hostile_text_as_text():
    hostile = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
    pairs = [Pair(row=row, text=hostile, student=hostile + "s", teacher="=1+1") for row in range(4)]
    items = shown(pairs, draw(pairs, items=4, seed=0, release=RELEASE))
    html = page(items, name=hostile, release=RELEASE)
    assert html.count("<script") == 2 and "<img" not in html and "default-src 'none'" in html
    assert not re.search(r"https?:|\bsrc=|@import|url\(", html.replace("&lt;img src=x", ""))
    cells = load_workbook(io.BytesIO(workbook(items, name="=2+2", release=RELEASE))).worksheets[0]
    assert {cell.data_type for row in cells.iter_rows() for cell in row if cell.value is not None} == {"s", "n"}


@FILLED
def test_answers_come_back_as_they_were_meant(asked, tmp_path, filled, name):
    pairs, key = asked
    by_row = {item.row: item for item in shown(pairs, key)}

    def likes(answer):
        return {"satisfaction": 5, "handled": "yes"} if "yes" in answer else {"satisfaction": 2, "handled": "no"}

    said = {}
    for item in key.items[:15]:
        sheet = by_row[item.row]
        preference = "same" if sheet.a == sheet.b else "A" if "yes" in sheet.a else "B"
        said[item.row] = fixture["judged"](sheet.a, sheet.b, likes, preference) | {"remark": 'a "quoted",\nline'}
    found = ratings_of([fixture[filled](tmp_path / name, pairs, key, "佐藤", said)], key)
    assert [rating.row for rating in found] == [item.row for item in key.items[:15]]
    for rating, item in zip(found, key.items, strict=False):
        assert rating.rater == 1
        assert (rating.teacher.satisfaction, rating.teacher.handled) == (5, True)
        assert (rating.student.satisfaction, rating.student.handled) == ((2, False) if item.differs else (5, True))
        assert rating.preference == ("teacher" if item.differs else "same")


def test_a_workbook_saved_as_csv_in_the_japanese_code_page_is_read(asked, tmp_path):
    pairs, key = asked
    said = everything(key, satisfaction_a="５", handled_a="はい", preference="同じ")
    book = fixture["filled_workbook"](tmp_path / "a.xlsx", pairs, key, "Sato", said)
    lines = [",".join("" if cell is None else f'"{cell}"' for cell in row) for row in _cells(book.read_bytes())]
    (tmp_path / "b.csv").write_bytes("\r\n".join(lines).encode("cp932"))
    assert ratings_of([tmp_path / "b.csv"], key) == ratings_of([book], key)


def test_raters_are_numbered_and_the_same_file_twice_counts_once(asked, tmp_path):
    pairs, key = asked
    files = [
        fixture["saved_csv"](tmp_path / "a.csv", pairs, key, "Sato", everything(key)),
        fixture["filled_workbook"](tmp_path / "b.xlsx", pairs, key, "Ito", everything(key, satisfaction_b=1)),
        fixture["filled_workbook"](tmp_path / "c.xlsx", pairs, key, " Sato ", everything(key)),
    ]
    found = ratings_of(files, key)
    assert len(found) == 40 and {rating.rater for rating in found} == {1, 2}


@FILLED
@pytest.mark.parametrize(
    "change, sentence",
    [
        ({"satisfaction_a": 6}, r"'6' as 'satisfaction with A' of item \d+; write one of 1, 2, 3, 4, 5"),
        ({"satisfaction_b": 3.5}, r"'3\.5' as 'satisfaction with B'"),
        ({"preference": "C"}, r"'C' as 'better answer' of item \d+; write one of A, B, same"),
        ({"handled_b": "perhaps"}, r"'perhaps' as .* write one of yes, no"),
        ({"handled_a": None}, r"leaves .* of item \d+ open; answer all five or clear the row"),
    ],
)
def test_a_value_that_is_not_offered_is_refused(asked, tmp_path, filled, name, change, sentence):
    pairs, key = asked
    change = {column: "" if value is None and name == "a.csv" else value for column, value in change.items()}
    with pytest.raises(ValueError, match=rf"{name}.*{sentence}"):
        ratings_of([fixture[filled](tmp_path / name, pairs, key, "Sato", everything(key, **change))], key)


@FILLED
def test_files_that_are_not_of_this_sheet_are_refused(asked, tmp_path, filled, name):
    pairs, key = asked
    fill = fixture[filled]
    other = key.model_copy(update={"release": "cd34" * 16})
    with pytest.raises(ValueError, match=r"is for release cd34cd34cd34 and this run's is ab12ab12ab12"):
        ratings_of([fill(tmp_path / name, pairs, other, "Sato", everything(key))], key)
    more = key.model_copy(update={"items": (*key.items, key.items[0].model_copy(update={"row": 99}))})
    assert 99 not in {item.row for item in key.items}
    with pytest.raises(ValueError, match=r"answers item '99', which is not on the sheet"):
        ratings_of([fill(tmp_path / name, pairs, more, "Sato", everything(more))], key)
    with pytest.raises(ValueError, match=r"does not say who filled it"):
        ratings_of([fill(tmp_path / name, pairs, key, "", everything(key))], key)
    with pytest.raises(ValueError, match=r"has no item that is answered"):
        ratings_of([fill(tmp_path / name, pairs, key, "Sato", {})], key)
    first = fill(tmp_path / name, pairs, key, "Sato", everything(key))
    second = fixture["saved_csv"](tmp_path / "again.csv", pairs, key, "Sato", everything(key, satisfaction_a=1))
    with pytest.raises(ValueError, match=rf"'Sato' answers item \d+ in one way in .*{name} and in another in .*again"):
        ratings_of([first, second], key)


@pytest.mark.parametrize(
    "name, content, sentence",
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"item,answer\r\n1,2\r\n", "does not say which release"),
        ("a.csv", b"\xff\xfe\x00\x80\x81", "no encoding that is read here"),
        ("a.xlsx", b"PK\x03\x04", "is no workbook"),
        ("a.pdf", b"%PDF", r"is no \.xlsx or \.csv"),
        ("a.csv", None, "cannot be read"),
    ],
)
def test_what_is_no_sheet_is_refused(asked, tmp_path, name, content, sentence):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=sentence):
        ratings_of([tmp_path / name], asked[1])

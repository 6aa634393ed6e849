"""Splits: what may never meet does not meet, what must be refused is, and the draw is fair and repeatable."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from deshi.jobs.data.near_twins import normalise
from deshi.jobs.data.split import NAMES, Splits, make_splits, split_rows
from deshi.jobs.recipe import Data

ALPHABET = list("abcdefghijklmnopqrstuvwxyz")
KANA = list("あいうえおかきくけこさしすせそたちつてとなにぬねのはひふへほ東京大阪駅口座残高")


def _texts(count: int, *, seed: int, letters=ALPHABET, joint: str = " ") -> list[str]:
    rng = np.random.default_rng(seed)
    return [joint.join("".join(rng.choice(letters, 6)) for _ in range(7)) for _ in range(count)]


def _table(texts, labels, slices=None) -> pa.Table:
    columns = {"row": pa.array(range(1, len(texts) + 1), pa.int64()), "text": texts}
    columns["label"] = pa.array(labels, pa.string())
    if slices is not None:
        columns["shop"] = pa.array(slices, pa.string())
    return pa.table(columns)


def _cycle(names, count):
    return [names[at % len(names)] for at in range(count)]


def _texts_of(table) -> set[str]:
    return {normalise(text) for text in table["text"].to_pylist()}


def _example(seed=0, labelled=300, unlabelled=400) -> Splits:
    texts = _texts(labelled + unlabelled, seed=1)
    labels = _cycle(["a", "b", "c"], labelled) + [None] * unlabelled
    train = _table(texts, labels, _cycle(["x", "x", "x", "y"], len(texts)))
    test = _table(_texts(90, seed=2), _cycle(["a", "b", "c"], 90), _cycle(["x", "y"], 90))
    return split_rows(train, test, seed=seed)


def test_every_text_stands_in_one_split_and_rows_are_unique():
    splits = _example()
    apart = [name for name in NAMES if name != "calibration"]
    rows = [row for name in apart for row in splits.table(name)["row"].to_pylist()]
    texts = [text for name in apart for text in splits.table(name)["text"].to_pylist()]
    assert len(rows) == len(set(rows)) == len(set(texts)) == 790
    assert splits.facts().rows == {
        "train": 240, "unlabelled": 320, "agreement": 80, "calibration": 256, "validation": 60, "test": 90,
    }  # fmt: skip
    assert splits.labels == ("a", "b", "c")
    assert splits.agreement["label"].null_count == 80
    assert splits.train["label"].null_count == splits.validation["label"].null_count == 0
    seen = _texts_of(splits.train) | _texts_of(splits.unlabelled)
    assert _texts_of(splits.calibration) <= seen


def test_validation_is_stratified_on_class_and_slice():
    splits = _example()
    counts = Counter(zip(splits.validation["label"].to_pylist(), splits.validation["shop"].to_pylist(), strict=True))
    assert {label: sum(n for (name, _), n in counts.items() if name == label) for label in "abc"} == {
        "a": 20, "b": 20, "c": 20,
    }  # fmt: skip
    for (_, shop), count in counts.items():
        assert abs(count - (15 if shop == "x" else 5)) <= 1


def test_the_draw_follows_the_seed_and_the_content_not_the_order(tmp_path):
    first, again, other = _example(), _example(), _example(seed=1)
    assert first.fingerprint == again.fingerprint != other.fingerprint
    texts = _texts(200, seed=5)
    table, test = _table(texts, _cycle(["a", "b"], 200)), _table(_texts(20, seed=6), _cycle(["a", "b"], 20))
    shuffled = table.take(np.random.default_rng(0).permutation(200))
    assert split_rows(table, test, seed=3).fingerprint == split_rows(shuffled, test, seed=3).fingerprint
    changed = table.set_column(2, "label", pa.array(_cycle(["b", "a"], 200)))
    assert split_rows(changed, test, seed=3).fingerprint != split_rows(table, test, seed=3).fingerprint

    first.write(tmp_path / "splits")
    back = Splits.read(tmp_path / "splits")
    assert (back.fingerprint, back.facts(), back.notes) == (first.fingerprint, first.facts(), first.notes)


def test_repeated_texts_count_once_and_the_majority_names_them():
    texts = _texts(60, seed=7)
    labels = _cycle(["a", "b"], 60)
    extra = [texts[0].upper(), f" {texts[0]}", texts[1], texts[2]]
    train = _table(texts + extra, [*labels, "a", "b", "a", None])  # text 0: a, a, b; text 1: b, a; text 2: a, -
    test_texts = _texts(12, seed=8)
    test = _table([*test_texts, test_texts[0]], [*_cycle(["a", "b"], 12), "b"])  # its first text: a, b
    splits = split_rows(train, test, seed=0)
    found = {
        normalise(text): label
        for name in ("train", "validation")
        for text, label in zip(*(splits.table(name)[c].to_pylist() for c in ("text", "label")), strict=True)
    }
    held = _texts_of(splits.agreement)
    assert found.get(texts[0], "a") == "a" and found.get(texts[2], "a") == "a"
    assert texts[0] in found or texts[0] in held
    assert texts[1] in _texts_of(splits.unlabelled)
    assert splits.test.num_rows == 11
    assert splits.duplicates_dropped == 4 + 2
    assert any("equally often" in note for note in splits.notes)


def test_near_twins_stay_on_one_side():
    texts = _texts(150, seed=9)
    twins = [f"{text}." for text in texts]
    unlabelled = [f"{text}!" for text in texts[:100]]
    labels = _cycle(["a", "b", "c"], 150)
    train = _table(texts + twins + unlabelled, labels + labels + [None] * 100)
    test = _table([f"{text} ." for text in texts[:30]] + _texts(20, seed=10), _cycle(["a", "b"], 50))
    splits = split_rows(train, test, seed=0)
    stem = lambda table: {text.rstrip(".!") for text in table["text"].to_pylist()}  # noqa: E731
    assert splits.validation.num_rows == 60
    assert not stem(splits.validation) & (stem(splits.train) | stem(splits.unlabelled))
    seen = stem(splits.train) | stem(splits.unlabelled)
    assert splits.near_twins == sum(text in seen for text in texts[:30]) > 10
    assert not any("near-twin among" in note for note in splits.notes)


def test_templates_and_texts_that_are_all_alike_still_split():
    texts = [f"please tell me where my order is, thank you very much: {at}" for at in range(200)]
    test = _table(_texts(4, seed=3), _cycle(["a", "b"], 4))
    splits = split_rows(_table(texts, _cycle(["a", "b"], 200)), test, seed=0)
    assert splits.validation.num_rows == 40
    one = "the same long sentence about a lost parcel and its refund "
    alike = [one * 20 + str(at) for at in range(100)]
    splits = split_rows(_table(alike, _cycle(["a", "b"], 100)), test, seed=0)
    assert splits.validation.num_rows == 20  # all rows are one group: split row by row, and said
    assert any(note.startswith("20 of 20 validation rows have a near-twin") for note in splits.notes)


@pytest.mark.parametrize(
    ("classes", "rare", "letters", "joint"), [(2, 0, KANA, ""), (50, 3, ALPHABET, " "), (6, 3, KANA, "")]
)
def test_other_languages_many_and_rare_classes_and_no_unlabelled_rows(classes, rare, letters, joint):
    names = [f"class{at:02d}" for at in range(classes)]
    labels = _cycle(names, 600) + ["rare"] * rare
    train = _table(_texts(len(labels), seed=11, letters=letters, joint=joint), labels)
    test = _table(_texts(100, seed=12, letters=letters, joint=joint), _cycle(names, 100))
    splits = split_rows(train, test, seed=0)
    kept = Counter(splits.train["label"].to_pylist())
    assert set(kept) == set(splits.labels) and min(kept.values()) >= 2
    assert set(splits.validation["label"].to_pylist()) == set(splits.labels)
    assert splits.unlabelled.num_rows == 0
    assert 40 <= splits.agreement.num_rows <= 60
    assert pc.unique(splits.agreement["label"]).to_pylist() == [None]
    if rare:
        assert (kept["rare"], splits.validation["label"].to_pylist().count("rare")) == (2, 1)


def _good():
    return _table(_texts(100, seed=13), _cycle(["a", "b"], 100)), _table(_texts(20, seed=14), _cycle(["a", "b"], 20))


def _relabel(table, labels):
    return table.set_column(2, "label", pa.array(labels, pa.string()))


def _refused():
    train, test = _good()
    shared = pa.concat_tables([test, train.slice(6, 1).set_column(0, "row", pa.array([21], pa.int64()))])
    odd = _relabel(train, ["odd", *_cycle(["a", "b"], 99)])
    half = _relabel(test, ["a", None] * 10)
    strange = _relabel(test, [*_cycle(["a", "b"], 19), "z"])
    return {
        "same text": (train, shared, None, "same text in train and test: row 7 of train is row 21 of test"),
        "validation too": (train, test, test, "same text in validation and test: row 1"),
        "train and validation": (train, test, train, "same text in train and validation"),
        "one class": (_relabel(train, ["a"] * 100), test, None, "one class only, 'a'"),
        "no label": (_relabel(train, [None] * 100), test, None, "no row of train has a label"),
        "single row": (odd, test, None, "'odd' has a single labelled row"),
        "unknown label": (train, strange, None, r"label 'z' in test \(row 20\)"),
        "test unlabelled": (train, half, None, "10 of 20 rows of test .* row 2 the f"),
        "too few": (train.slice(0, 19), test, None, "19 labelled texts in 2 classes, too few to split off"),
    }  # fmt: skip


@pytest.mark.parametrize("case", _refused())
def test_refusals_are_one_sentence(case):
    train, test, validation, match = _refused()[case]
    with pytest.raises(ValueError, match=match) as caught:
        split_rows(train, test, validation, seed=0)
    assert "\n" not in str(caught.value)


def test_too_few_to_rank_is_refused_and_a_validation_file_is_taken_whole():
    texts = _texts(40, seed=15)
    train = _table(texts, [f"c{at // 2}" for at in range(40)])
    test, validation = (_table(_texts(6, seed=s), _cycle(["c0", "c1"], 6)) for s in (16, 17))
    with pytest.raises(ValueError, match="too few to hold out rows for ranking"):
        split_rows(train, test, validation, seed=0)
    more = pa.concat_tables([train, _table(_texts(100, seed=18), [None] * 100)])
    splits = split_rows(more, test, validation, seed=0)
    assert _texts_of(splits.validation) == _texts_of(validation)
    assert (splits.train.num_rows, splits.unlabelled.num_rows, splits.agreement.num_rows) == (40, 80, 20)


def test_from_the_files_of_a_recipe(tmp_path):
    train, test = _good()
    pq.write_table(train.rename_columns(["id", "q", "kind"]), tmp_path / "train.parquet")
    pq.write_table(test.rename_columns(["id", "q", "kind"]), tmp_path / "test.parquet")
    data = Data(train=str(tmp_path / "train.parquet"), test=str(tmp_path / "test.parquet"), text="q", label="kind")
    assert make_splits(data, seed=0).fingerprint == split_rows(train, test, seed=0).fingerprint

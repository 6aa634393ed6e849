"""Who may see which text: by content and seed, once, with nothing in two places."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest

from deshi.jobs.data.sequences import NAMES, SequenceSplits, make_sequence_splits

lm = runpy.run_path(str(Path(__file__).parents[1] / "lm_fixtures.py"))


def write(path, chats):
    lines = [json.dumps({"messages": chat, "topic": f"t{at % 3}"}) for at, chat in enumerate(chats)]
    path.write_text("\n".join(lines))
    return path


def split(folder, train, test, **options):
    settings = {"format": "messages", "loss_on": "assistant", "slices": ("topic",), "seed": 0} | options
    return make_sequence_splits(
        train=write(folder / "train.jsonl", train), test=write(folder / "test.jsonl", test), **settings
    )


TRAIN, TEST = lm["conversations"](200, seed=1), lm["conversations"](30, seed=2)


def test_nothing_stands_twice_and_nothing_is_lost(tmp_path):
    (tmp_path / "other.txt").write_text("A passage.\n\nAnother passage.\n")
    splits = split(tmp_path, [*TRAIN, TRAIN[3]], TEST, forget=tmp_path / "other.txt")
    rows = {name: splits.table(name).num_rows for name in NAMES}
    assert rows == {"train": 180, "calibration": 180, "validation": 20, "test": 30, "forget": 2}
    apart = [row for name in NAMES if name != "calibration" for row in splits.table(name)["row"].to_pylist()]
    assert len(set(apart)) == len(apart)
    texts = [set(splits.table(name)["text"].to_pylist()) for name in ("train", "validation", "test")]
    assert len(texts[0] | texts[1]) == 200 and not texts[2] & (texts[0] | texts[1])
    assert set(splits.calibration["text"].to_pylist()) <= texts[0]
    assert splits.duplicates_dropped == 1
    assert "1 rows that repeat another row's text were dropped in train." in splits.notes
    assert splits.facts(truncated={"train": 0.5}).rows == rows
    assert splits.train.column_names == ["row", "text", "topic"]


def test_the_order_of_the_file_does_not_matter_but_the_seed_does(tmp_path):
    first = split(tmp_path, TRAIN, TEST, slices=())
    again = split(tmp_path, TRAIN[::-1], TEST[::-1], slices=())
    assert first.fingerprint == again.fingerprint
    assert first.train.equals(again.train) and first.validation.equals(again.validation)
    assert (
        split(tmp_path, TRAIN, TEST, slices=(), seed=1).fingerprints["validation"] != first.fingerprints["validation"]
    )
    assert split(tmp_path, TRAIN, TEST, slices=(), loss_on="all").fingerprint != first.fingerprint


def test_what_is_written_is_read(tmp_path):
    splits = split(tmp_path, TRAIN, TEST)
    splits.write(tmp_path / "splits")
    again = SequenceSplits.read(tmp_path / "splits")
    assert (
        again.fingerprint
        == splits.fingerprint
        == json.loads((tmp_path / "splits/splits.json").read_text())["fingerprint"]
    )
    assert again.notes == splits.notes and again.format == "messages" and again.forget.num_rows == 0


def test_the_same_text_in_train_and_test_is_refused_naming_the_rows(tmp_path):
    shouted = [message | {"content": message["content"].upper()} for message in TRAIN[7]]
    with pytest.raises(ValueError, match=r"the same text in train and test: row 8 of train is row 31 of test"):
        split(tmp_path, TRAIN, [*TEST, shouted])


def test_near_twins_are_allowed_and_counted(tmp_path):
    longest = max(TRAIN, key=lambda messages: len(str(messages)))
    twin = [*longest[:-1], longest[-1] | {"content": longest[-1]["content"] + "!"}]
    splits = split(tmp_path, TRAIN, [*TEST, twin])
    assert splits.near_twins == split(tmp_path, TRAIN, TEST).near_twins + 1


def test_a_validation_file_is_taken_as_it_is(tmp_path):
    given = write(tmp_path / "validation.jsonl", lm["conversations"](9, seed=3))
    splits = split(tmp_path, TRAIN[:15], TEST, validation=given)
    assert splits.validation.num_rows == 9 and splits.train.num_rows == 15
    with pytest.raises(ValueError, match="train has 15 different texts, too few to split off a validation set"):
        split(tmp_path, TRAIN[:15], TEST)
    with pytest.raises(ValueError, match="the same text in validation and test"):
        split(tmp_path, TRAIN, [*TEST, lm["conversations"](9, seed=3)[4]], validation=given)


def test_sequences_follow_the_split(tmp_path):
    (tmp_path / "other.txt").write_text("the old bridge\n\nthe red tower")
    splits = split(tmp_path, TRAIN, TEST, forget=tmp_path / "other.txt")
    folder = lm["tiny_lm"](tmp_path / "lm", layers=1)
    whole = splits.sequences("test", folder, max_length=64)
    part = splits.sequences("test", folder, max_length=64, begin=5, end=9)
    assert [ids.tolist() for ids in whole.input_ids[5:9]] == [ids.tolist() for ids in part.input_ids]
    forget = splits.sequences("forget", folder, max_length=64)
    assert (forget.learned == forget.lengths - 1).all()  # passages, whatever the chats are


@pytest.mark.parametrize("tokens", [1, 300, 3000, 10**9])
def test_leading_rows_are_rendered_only_as_far_as_wanted(tmp_path, tokens):
    splits = split(tmp_path, TRAIN, TEST)
    folder = lm["tiny_lm"](tmp_path / "lm", layers=1)
    whole = splits.sequences("train", folder, max_length=32)
    some = splits.leading("train", folder, max_length=32, tokens=tokens)
    rows = len(some.input_ids)
    assert [ids.tolist() for ids in some.input_ids] == [ids.tolist() for ids in whole.input_ids[:rows]]
    assert [mask.tolist() for mask in some.loss_mask] == [mask.tolist() for mask in whole.loss_mask[:rows]]
    filled = [int(length) if learned else 0 for length, learned in zip(whole.lengths, whole.learned, strict=True)]
    assert sum(filled[:rows]) >= min(tokens, sum(filled)), "too few"
    assert sum(filled[: rows - 1]) < tokens or rows == 1, "one row more than needed"
    every = splits.leading("train", folder, max_length=32, tokens=None)
    assert len(every.input_ids) == len(whole.input_ids)


def test_the_share_of_cut_rows_is_that_of_the_whole_rendering(tmp_path):
    splits = split(tmp_path, TRAIN, TEST)
    folder = lm["tiny_lm"](tmp_path / "lm", layers=1)
    whole = splits.sequences("train", folder, max_length=96)
    assert 0 < whole.cut < len(whole.lengths)
    assert splits.cut_share("train", folder, max_length=96) == whole.cut / len(whole.lengths)

"""Same vocabulary or not, told from real tokenizers: written by the tokenizers library, then changed in one place."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from deshi.jobs.data.vocabulary_match import same_vocabulary

TEXT = ["the student asks the teacher", "the teacher answers the student", "they talk and they learn"]


def folder(path, vocab_size=None, edit=None, vocabulary=90):
    """A model folder with a trained byte-level BPE; `edit` changes the tokenizer.json."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.train_from_iterator(TEXT, trainers.BpeTrainer(vocab_size=vocabulary, special_tokens=["<|end|>"]))
    path.mkdir()
    told = json.loads(tokenizer.to_str())
    if edit is not None:
        edit(told)
    (path / "tokenizer.json").write_text(json.dumps(told), encoding="utf-8")
    size = tokenizer.get_vocab_size() if vocab_size is None else vocab_size
    (path / "config.json").write_text(json.dumps({"vocab_size": size}), encoding="utf-8")
    return path


def ids(path):
    return Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab_size()


def test_one_tokenizer_with_heads_padded_differently(tmp_path):
    student = folder(tmp_path / "student")
    own = ids(student)
    assert same_vocabulary(student, folder(tmp_path / "same")) == own
    padded = folder(tmp_path / "padded", vocab_size=own + 38)
    more = folder(tmp_path / "more", vocab_size=own + 64)
    assert same_vocabulary(student, padded) == same_vocabulary(padded, student) == own
    assert same_vocabulary(more, padded) == own + 38


def test_spelling_is_no_difference(tmp_path):
    """Older files join a merge by a space and leave out settings that are off."""

    def older(told):
        told["model"]["merges"] = [" ".join(merge) for merge in told["model"]["merges"]]
        told["model"] = {name: value for name, value in told["model"].items() if value not in (None, False)}
        told["model"]["vocab"] = dict(reversed(told["model"]["vocab"].items()))

    student, teacher = folder(tmp_path / "student"), folder(tmp_path / "teacher", edit=older)
    assert same_vocabulary(student, teacher) == ids(student)


def swap(told):
    vocab = told["model"]["vocab"]
    vocab["the"], vocab["st"] = vocab["st"], vocab["the"]


@pytest.mark.parametrize(
    ("edit", "match"),
    [
        (swap, r"piece '(st|the)' is \d+ to the student and \d+ to the teacher"),
        (lambda told: told["model"]["merges"].reverse(), "differ in merges"),
        (lambda told: told.update(pre_tokenizer={"type": "Whitespace"}), "differ in cutting text"),
        (lambda told: told.update(normalizer={"type": "Lowercase"}), "differ in normalising"),
        (lambda told: told["added_tokens"].append({**told["added_tokens"][0], "id": 90, "content": "<|user|>"}),
         r"'<\|user\|>' is known to the teacher alone"),
    ],
)  # fmt: skip
def test_a_different_tokenizer_is_refused(tmp_path, edit, match):
    student, teacher = folder(tmp_path / "student"), folder(tmp_path / "teacher", edit=edit, vocab_size=128)
    with pytest.raises(ValueError, match=match):
        same_vocabulary(student, teacher)


def test_a_larger_vocabulary_is_not_padding(tmp_path):
    student, teacher = folder(tmp_path / "student", vocabulary=30), folder(tmp_path / "teacher", vocabulary=40)
    with pytest.raises(ValueError, match="known to the teacher alone"):
        same_vocabulary(student, teacher)


def test_folders_that_cannot_be_compared(tmp_path):
    student = folder(tmp_path / "student")
    with pytest.raises(ValueError, match="below the"):
        same_vocabulary(student, folder(tmp_path / "small", vocab_size=10))
    slow = folder(tmp_path / "slow")
    (slow / "tokenizer.json").unlink()
    with pytest.raises(ValueError, match=r"has no tokenizer\.json"):
        same_vocabulary(student, slow)

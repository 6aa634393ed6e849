"""Rows of text are read as they were meant, and refused in one sentence where nothing can be meant."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deshi.jobs.data.conversations import dropped_rows, plain, read_conversations

ASKED = {"role": "user", "content": " Where is it? "}
SAID = {"role": "assistant", "content": "橋の近く"}
GOOD = {"messages": [ASKED, SAID], "topic": "town"}


def jsonl(path, *records):
    path.write_text("\n".join(json.dumps(record, ensure_ascii=False) for record in records), encoding="utf-8")
    return path


def messages(path, **options):
    return read_conversations(path, format="messages", **{"loss_on": "assistant"} | options)


def test_messages_are_the_same_from_jsonl_and_parquet(tmp_path):
    records = [GOOD, {"messages": [{"role": "system", "content": "s", "name": "x"}, ASKED, SAID], "topic": None}]
    from_lines = messages(jsonl(tmp_path / "a.jsonl", *records), slices=["topic"])
    pq.write_table(pa.Table.from_pylist(records), tmp_path / "a.parquet")
    assert from_lines.equals(messages(tmp_path / "a.parquet", slices=["topic"]))
    assert from_lines["row"].to_pylist() == [1, 2]
    assert from_lines["topic"].to_pylist() == ["town", None]
    assert json.loads(from_lines["text"][0].as_py()) == [{"role": "user", "content": "Where is it?"}, SAID]
    assert plain(from_lines["text"][0].as_py(), "messages") == "Where is it?\n橋の近く"


def test_what_teaches_nothing_is_dropped_and_counted(tmp_path):
    greeting = {"messages": [SAID, ASKED]}
    wordless = {"messages": [ASKED, {"role": "assistant", "content": " \n"}]}
    path = jsonl(tmp_path / "a.jsonl", {"messages": [ASKED]}, GOOD, greeting, wordless)
    table = messages(path)
    assert table["row"].to_pylist() == [2]
    assert dropped_rows(table) == {"no assistant's answer to a user": 2, "a message without words": 1}
    assert messages(path, loss_on="all")["row"].to_pylist() == [1, 2, 3]


@pytest.mark.parametrize(
    ("record", "sentence"),
    [
        ({"messages": []}, r"row 2 of .*a\.jsonl is an empty conversation"),
        ({"messages": None}, "row 2 of .* holds nothing where its messages"),
        ({"messages": "hello"}, "row 2 of .* holds str"),
        ({"messages": [ASKED, {"role": "tool", "content": "x"}]}, "message 2 of row 2 .* has the role 'tool'"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "content of message 1 of row 2 .* is list"),
        ({"messages": [{"from": "human", "value": "x"}]}, "message 1 of row 2 .* has the keys 'from', 'value'"),
        ({"messages": ["hello"]}, "message 1 of row 2 .* has 'hello'"),
        ({"messages": [ASKED, {"role": "assistant", "content": "\ud800"}]}, "row 2 .* surrogate"),
    ],
)
def test_refusals_name_file_and_row(tmp_path, record, sentence):
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(GOOD) + "\n" + json.dumps(record))
    with pytest.raises(ValueError, match=sentence):
        messages(path)


def test_a_file_with_nothing_to_learn_is_refused(tmp_path):
    with pytest.raises(
        ValueError, match=r"no row of .* can be learned from \(1 with no assistant's answer to a user\)"
    ):
        messages(jsonl(tmp_path / "a.jsonl", {"messages": [ASKED]}))
    with pytest.raises(ValueError, match="has no column 'messages'"):
        messages(jsonl(tmp_path / "a.jsonl", {"chat": []}))
    with pytest.raises(ValueError, match=r"line 2 of .* is not JSON"):
        (tmp_path / "a.jsonl").write_text(json.dumps(GOOD) + "\n{")
        messages(tmp_path / "a.jsonl")


def test_a_text_file_holds_one_passage_a_paragraph(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes(b"first\r\nline\r\n\r\n \r\n\r\nsecond\n\n\n")
    table = read_conversations(path, format="text", loss_on="all")
    assert table["text"].to_pylist() == ["first\nline", "second"]
    with pytest.raises(ValueError, match="plain text, which has no columns for messages"):
        messages(path)


def test_prompts_and_completions(tmp_path):
    path = jsonl(tmp_path / "a.jsonl", {"q": "1+1=", "a": " 2"}, {"q": "2+2=", "a": ""})
    table = read_conversations(path, format="prompt_completion", column="q, a", loss_on="completion")
    assert [json.loads(text) for text in table["text"].to_pylist()] == [{"prompt": "1+1=", "completion": " 2"}]
    assert dropped_rows(table) == {"a blank text": 1}
    with pytest.raises(ValueError, match=r"column 'a' of row 1 of .* holds 2; write text"):
        read_conversations(
            jsonl(tmp_path / "b.jsonl", {"q": "1+1=", "a": 2}),
            format="prompt_completion",
            column="q,a",
            loss_on="completion",
        )
    with pytest.raises(ValueError, match="read from two columns"):
        read_conversations(path, format="prompt_completion", column="q", loss_on="completion")


@pytest.mark.parametrize(("format", "loss_on"), [("text", "assistant"), ("messages", "completion")])
def test_a_loss_without_meaning_is_refused(tmp_path, format, loss_on):
    with pytest.raises(ValueError, match=f"loss_on = '{loss_on}' has no meaning with format = '{format}'"):
        read_conversations(tmp_path / "none.jsonl", format=format, loss_on=loss_on)

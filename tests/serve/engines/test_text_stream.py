"""Text that may be sent, against the whole text known beforehand."""

from __future__ import annotations

import pytest
from tokenizers import Tokenizer

from deshi.serve.engines.text_stream import TextStream, overlap, token_bytes


@pytest.fixture(scope="module")
def tokenizer(parrot):
    return Tokenizer.from_file(str(parrot / "model" / "tokenizer.json"))


def streamed(tokenizer, text, stop):
    stream, sent = TextStream(tokenizer, [], stop), []
    for token in tokenizer.encode(text).ids:
        sent.append(stream.push(token))
        if stream.stopped:
            break
    return [*sent, stream.rest()], stream.stopped


def test_only_whole_characters_are_sent(tokenizer):
    sent, stopped = streamed(tokenizer, " the 😀ü日", [])
    assert "".join(sent) == " the 😀ü日" and not stopped
    assert {"😀", "ü", "日"} <= set(sent) and "\ufffd" not in "".join(sent)


@pytest.mark.parametrize(
    ("text", "stop", "expected"),
    [
        ("say the end now", ["end"], "say the "),
        ("say the end now", ["never", " en"], "say the"),
        ("aab", ["ab"], "a"),  # the first a is a beginning too, and let go
        ("abab!", ["abac"], "abab!"),
        ("x😀y", ["😀"], "x"),
        ("one two", ["two", "one"], ""),
    ],
)
def test_nothing_of_a_stop_sequence_is_sent(tokenizer, text, stop, expected):
    sent, stopped = streamed(tokenizer, text, stop)
    assert "".join(sent) == expected and stopped == any(one in text for one in stop)


def test_overlap():
    assert [overlap(text, "aab") for text in ("", "b", "xa", "xaa", "aaa", "aab")] == [0, 0, 1, 2, 2, 0]


def test_the_bytes_of_tokens_make_up_the_text(tokenizer):
    text = " the 😀ü\n<|im_end|>"
    assert b"".join(token_bytes(tokenizer, token) for token in tokenizer.encode(text).ids) == text.encode()

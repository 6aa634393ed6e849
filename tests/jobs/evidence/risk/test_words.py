"""Words by script, in English and Japanese."""

from __future__ import annotations

from deshi.jobs.evidence.risk.words import word_spans, words


def test_runs_of_one_script_are_words():
    text = "Where is東京タワーの入口？ it's 3,000"
    assert [text[start:end] for start, end in word_spans(text)] == (
        ["Where", "is", "東京", "タワー", "の", "入口", "it", "s", "3", "000"]
    )


def test_width_and_case_are_one_word():
    assert words("ＡＢＣ abc ﾀﾜｰ タワー _ 々") == ["abc", "abc", "タワー", "タワー", "々"]
    assert words(" ?! ") == []

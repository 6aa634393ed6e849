"""Words of a text by its characters alone, so that models with different tokenizers can be compared word by word.

A word is a run of letters and digits of one script; in Japanese, which sets no spaces, runs of kanji, hiragana and
katakana stand for words. It is no morphological analysis and needs no dictionary: it is the same for every model.

`word_spans` -> (start, end) by word, in characters of the text as it stands; `words` -> NFKC, case folded.
"""

from __future__ import annotations

import re
import unicodedata

_WORD = re.compile(
    r"[\u3400-\u9fff\uf900-\ufaff々〆〇]+"  # kanji
    r"|[\u3041-\u309f]+"  # hiragana
    r"|[\u30a1-\u30ff\uff66-\uff9f]+"  # katakana, half width too
    r"|(?:(?![\u3041-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f々〆〇])[^\W_])+"
)


def word_spans(text: str) -> list[tuple[int, int]]:
    """Start and end of each word."""
    return [found.span() for found in _WORD.finditer(text)]


def words(text: str) -> list[str]:
    """The words as they are counted: full and half width are the same, and so are small and capital letters."""
    return [unicodedata.normalize("NFKC", text[start:end]).casefold() for start, end in word_spans(text)]

"""Words in a cell of a workbook: what begins like a formula must not become one."""

from __future__ import annotations

from typing import Any

from openpyxl.cell.cell import ILLEGAL_CHARACTERS_RE


def put_words(cell: Any, words: str) -> None:
    """Writes words as words; a control character, which a workbook may not hold, is left out."""
    cell.value = ILLEGAL_CHARACTERS_RE.sub("", words)
    cell.data_type = "s"

"""What people said of the answers: `review-key.json` (which answer is whose) and `review.json` (what was told from it).

Evidence is never changed after the verdict, so a review lies beside it, bound to the release by the SHA-256 of
`release/manifest.json`. The sheets that people fill hold neither file's content: only `review_sheet.Shown`.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deshi.jobs.evidence.figure import Figure
from deshi.serve.kpi import Frozen

REVIEW_FILE, KEY_FILE = "review.json", "review-key.json"
Letter = Literal["A", "B"]
Release = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the release's manifest.json")


class KeyItem(Frozen):
    """One item of the sheets."""

    row: int = Field(ge=0, description="of the test split, counted from 0")
    student: Letter = Field(description="the letter under which the student's answer stands")
    differs: bool = Field(description="the two answers are not the same text")


class ReviewKey(Frozen):
    """`review-key.json`: what the sheets must not say.

    Items are drawn at random within two strata, rows on which the answers differ and rows on which they do not, so an
    item stands for `rows_differing` (or the other rows) divided by the items of its stratum that were rated.
    """

    schema_version: Literal[1] = 1
    release: str = Release
    seed: int
    rows: int = Field(ge=1, description="rows that could have been drawn")
    rows_differing: int = Field(ge=0, description="of these, with two different answers")
    items: tuple[KeyItem, ...] = Field(description="in the order of the sheets")


class Judged(Frozen):
    """What one person said of one answer."""

    satisfaction: int = Field(ge=1, le=5)
    handled: bool = Field(description="the case could be finished with it, without escalation")


class Rating(Frozen):
    """What one person said of one item. People are numbered: the sheets keep their names."""

    rater: int = Field(ge=1)
    row: int = Field(ge=0)
    student: Judged
    teacher: Judged
    preference: Literal["student", "teacher", "same"]


class Opinion(Frozen):
    """Of one model's answers, or of the difference of two, over all rows that could have been drawn."""

    satisfaction: Figure = Field(description="mean, 1 to 5")
    satisfied: Figure = Field(description="share of the rows with satisfaction 4 or 5")
    handled: Figure = Field(description="share of the rows that could be finished without escalation")


class Review(Frozen):
    """`review.json`: the figures, and the ratings that they were told from."""

    schema_version: Literal[1] = 1
    release: str = Release
    created: str = Field(description="UTC, ISO 8601: when the files were read")
    raters: int = Field(ge=1)
    items: int = Field(ge=1, description="items that somebody rated")
    rows: int = Field(ge=1, description="rows that the items stand for")
    rows_differing: int = Field(ge=0, description="of these, with two different answers")
    student: Opinion
    teacher: Opinion
    difference: Opinion = Field(description="student minus teacher, on the same items")
    preference: Figure = Field(description="the student's share of the preferred answers, ties left out")
    agreement: Figure = Field(description="Krippendorff's alpha of satisfaction; None of one rater alone")
    experience: Figure | None = Field(None, description="money a month, outside of the business case")
    files: dict[str, str] = Field(description="SHA-256 of a file that was read -> its name")
    ratings: tuple[Rating, ...]

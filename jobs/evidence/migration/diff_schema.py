"""What `deshi diff` leaves: `diff.jsonl`, a row a request, and `diff.json`, the figures over them.

A row's outcome: `failed` if a reply did not come, was no JSON or had another status than the other one; else `shape` if
a key is missing, extra or of another type; else `value` if a value differs; else `same`. Two errors of the same status
are compared like any two replies.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from deshi.jobs.evidence.figure import Figure
from deshi.jobs.evidence.migration.json_difference import Difference, Kind
from deshi.serve.kpi import Frozen

Outcome = Literal["same", "value", "shape", "failed"]
OUTCOMES: tuple[Outcome, ...] = ("same", "value", "shape", "failed")
DIFF_FILE, ROWS_FILE = "diff.json", "diff.jsonl"


class DiffRow(Frozen):
    """One request and its two replies."""

    line: int = Field(description="of the file of requests")
    outcome: Outcome
    old_status: int = Field(description="HTTP; 0: no reply")
    new_status: int
    old_ms: float
    new_ms: float
    why: str = Field("", description="of what failed")
    differences: tuple[Difference, ...] = ()


class KeyDifference(Frozen):
    """A key that differs in some replies."""

    key: str
    kind: Kind
    detail: str = Field("", description="the types, where they differ")
    rows: int
    lines: tuple[int, ...] = Field(description="the first ones, of the file of requests")


class Latency(Frozen):
    """Of replies with a status of 2xx, request to last byte, one request at a time."""

    p50: Figure
    p95: Figure


class Diff(Frozen):
    """`diff.json`."""

    schema_version: Literal[1] = 1
    name: str = Field(description="of the release")
    release: str = Field(description="SHA-256 of its manifest.json")
    decision: str
    target: str
    created: str = Field(description="UTC, ISO 8601")
    url: str = Field(description="of the old service, without user, password and query")
    requests: dict[str, str] = Field(description="SHA-256 of the file of requests -> its name")
    mapping: dict[str, str] = Field(description="of the mapping file; empty: none")
    rows_file: dict[str, str] = Field(description="of the file of rows")
    tolerance: float
    confidence: float = Field(description="of the intervals, the release's")
    ignored: tuple[str, ...]
    outcomes: dict[Outcome, Figure] = Field(description="shares of the requests")
    statuses: dict[str, int] = Field(description="'old/new' -> requests, where a status was not 2xx")
    old: Latency
    new: Latency
    keys: tuple[KeyDifference, ...] = Field(description="those in most replies first")
    mapping_keys: Figure = Field(description="keys that differ in shape: work on the mapping")
    review_rows: Figure = Field(description="replies that differ in value alone: to be judged by people")

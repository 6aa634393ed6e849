"""Rows of a language model's text from a file: .jsonl, .parquet or .txt, checked, as one Arrow table of strings.

`read_conversations` gives `row` (int64, the row's number in the file, from 1), `text` (string) and one string column
for each slice. What `text` holds depends on the format:

- text: a passage, as it stands. A .txt holds one passage a paragraph; blank lines part paragraphs, and the line breaks
  inside one are kept.
- messages: a list of {role, content}, written as canonical JSON, `[{"role":"user","content":"..."},...]`.
- prompt_completion: two columns, written as canonical JSON, `{"prompt":"...","completion":"..."}`.

What cannot be meant is refused: no messages at all, an unknown role, content that is no text. What merely teaches
nothing is dropped, and `dropped_rows` says how many and why, since one unanswered chat in an export of 20,000 is no
reason to stop and no reason to be silent: blank text, a message without words, and, where the loss is on the
assistant, a conversation in which no assistant answers a user. (A greeting before the user's first word is read but
never learned: no endpoint is asked for it.)
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Literal

import pyarrow as pa

from deshi.jobs.data.rows import (
    blank_to_null,
    decoded,
    json_column,
    parquet_rows,
    read_bytes,
    refuse_columns,
    strings_of,
)

Format = Literal["text", "messages", "prompt_completion"]
LossOn = Literal["assistant", "completion", "all"]
COLUMNS: dict[str, str] = {"text": "text", "messages": "messages", "prompt_completion": "prompt,completion"}
LOSSES: dict[Format, tuple[LossOn, ...]] = {
    "text": ("all",),
    "messages": ("assistant", "all"),
    "prompt_completion": ("completion", "all"),
}
ROLES = ("system", "user", "assistant")
SUFFIXES = (".jsonl", ".parquet", ".txt")
DROPPED = b"dropped_rows"
BLANK = "a blank text"
WORDLESS = "a message without words"
UNANSWERED = "no assistant's answer to a user"


def refuse_loss(format: Format, loss_on: LossOn) -> None:
    """Refuses a pair of `data.format` and `data.loss_on` that has no meaning.

    Raises:
        ValueError: in one sentence.
    """
    if loss_on not in LOSSES[format]:
        raise ValueError(
            f"loss_on = {loss_on!r} has no meaning with format = {format!r}, which has no such part; "
            f"write loss_on: {' or '.join(LOSSES[format])}"
        )


def read_conversations(
    source: str | Path,
    *,
    format: Format,
    column: str | None = None,
    loss_on: LossOn,
    slices: Sequence[str] = (),
) -> pa.Table:
    """Reads and checks one file of rows.

    Args:
        source: a path, or a URI that pyarrow.fs or fsspec knows.
        column: the column with the text or the messages; two names with a comma between for prompt_completion.
        slices: columns to report by.

    Raises:
        ValueError: in one sentence that names the file and the row, for anything that cannot be meant.
    """
    refuse_loss(format, loss_on)
    names = [name.strip() for name in (column or COLUMNS[format]).split(",")]
    if len(names) != len(COLUMNS[format].split(",")):
        wanted = "two columns, prompt and completion, with a comma between" if len(names) == 1 else "one column"
        raise ValueError(f"column = {column!r} does not fit format = {format!r}, which is read from {wanted}")
    values, sliced = _read(source, names, slices, format)
    if not values:
        raise ValueError(f"{source} holds no rows; it must hold at least one")

    check = {"text": _passage, "messages": _messages, "prompt_completion": _pair}[format]
    texts: list[str | None] = []
    dropped: Counter[str] = Counter()
    for row, value in enumerate(values, start=1):
        text, why = check(f"row {row} of {source}", value, loss_on)
        if not text.isascii() and re.search("[\ud800-\udfff]", text):
            raise ValueError(f"row {row} of {source} holds half of a surrogate pair, which is no text; remove it")
        texts.append(None if why else text)
        dropped.update([why] if why else [])
    kept = pa.array([text is not None for text in texts])
    columns: dict[str, Any] = {
        "row": pa.array(range(1, len(values) + 1), pa.int64()),
        "text": pa.array(texts, pa.string()),
    }
    for name in slices:
        if name in columns or name in names:
            raise ValueError(f"{name!r} cannot be a slice of {source}: Deshi uses that name; rename the column")
        columns[name] = blank_to_null(strings_of(source, sliced[name], name))
    rows = pa.table(columns).filter(kept)
    if not rows.num_rows:
        raise ValueError(f"no row of {source} can be learned from ({_listed(dropped)}); check format, column, loss_on")
    return rows.replace_schema_metadata({DROPPED: json.dumps(dropped, sort_keys=True)})


def dropped_rows(table: pa.Table) -> dict[str, int]:
    """Why rows of the file were dropped, and how many."""
    reasons: dict[str, int] = json.loads((table.schema.metadata or {}).get(DROPPED, b"{}"))
    return reasons


def canonical_messages(messages: Sequence[dict[str, Any]]) -> str:
    """A conversation as the `text` column holds it: role and content alone, in that order."""
    return _json([{"role": message["role"], "content": message["content"].strip()} for message in messages])


def plain(text: str, format: Format) -> str:
    """What is said in a row, one utterance a line and without the JSON around it: for comparing rows."""
    if format == "text":
        return text
    said = json.loads(text)
    return "\n".join(said.values() if format == "prompt_completion" else (message["content"] for message in said))


def _passage(_: str, value: tuple[Any, ...], __: LossOn) -> tuple[str, str]:
    text = value[0] or ""
    return text, "" if text.strip() else BLANK


def _pair(_: str, value: tuple[Any, ...], __: LossOn) -> tuple[str, str]:
    prompt, completion = (part or "" for part in value)
    return _json({"prompt": prompt, "completion": completion}), "" if completion.strip() and prompt.strip() else BLANK


def _messages(where: str, value: tuple[Any, ...], loss_on: LossOn) -> tuple[str, str]:
    messages = value[0]
    if not isinstance(messages, list):
        kind = "nothing" if messages is None else type(messages).__name__
        raise ValueError(f"{where} holds {kind} where its messages should be; write a list of {{role, content}}")
    if not messages:
        raise ValueError(f"{where} is an empty conversation; give it at least one message, or remove the row")
    for number, message in enumerate(messages, start=1):
        if not isinstance(message, dict) or "role" not in message or "content" not in message:
            keys = f"the keys {', '.join(map(repr, message))}" if isinstance(message, dict) else repr(message)[:40]
            raise ValueError(f"message {number} of {where} has {keys}; a message is {{role, content}}: rename its keys")
        if message["role"] not in ROLES:
            raise ValueError(
                f"message {number} of {where} has the role {message['role']!r}; a role is {', '.join(ROLES)}: "
                "rename it, or remove the row"
            )
        if not isinstance(message["content"], str):
            raise ValueError(
                f"the content of message {number} of {where} is {type(message['content']).__name__}, not text; "
                "images, parts and tool calls are not read: write a string, or remove the row"
            )
    if not all(message["content"].strip() for message in messages):
        return "", WORDLESS
    roles = [message["role"] for message in messages]
    answered = "user" in roles and "assistant" in roles[roles.index("user") :]
    return canonical_messages(messages), "" if answered or loss_on == "all" else UNANSWERED


def _read(
    source: str | Path, names: Sequence[str], slices: Sequence[str], format: Format
) -> tuple[list[tuple[Any, ...]], dict[str, Any]]:
    """The values of the named columns, a tuple a row, and the slices as Arrow columns."""
    suffix = PurePosixPath(str(source)).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{source} ends in {suffix or 'no suffix'!r}; rows are read from {', '.join(SUFFIXES)}: convert the file"
        )
    if suffix == ".txt" and (format != "text" or slices):
        raise ValueError(
            f"{source} is plain text, which has no columns for {'slices' if format == 'text' else format}; "
            "give a .jsonl or .parquet"
        )
    data = read_bytes(source)
    if not data.strip():
        raise ValueError(f"{source} is empty; it must hold at least one row")
    if suffix == ".txt":
        lines = re.sub(r"\r\n?", "\n", decoded(source, data))
        return [(part.strip(),) for part in re.split(r"\n\s*\n", lines) if part.strip()], {}
    wanted = tuple(dict.fromkeys((*names, *slices)))
    if suffix == ".parquet":
        table = parquet_rows(source, data, wanted)
        if format != "messages":
            table = pa.table(
                {name: strings_of(source, table[name], name, only_strings=name in names) for name in wanted}
            )
        values = list(zip(*(table[name].to_pylist() for name in names), strict=True))
        return values, {name: table[name] for name in slices}
    records = _records(source, data)
    refuse_columns(source, list(dict.fromkeys(key for record in records for key in record)), wanted)
    for row, record in enumerate(records, start=1):
        for name in [*slices, *(names if format != "messages" else ())]:
            value = record.get(name)
            if isinstance(value, dict | list) or (name in names and not isinstance(value, str | None)):
                rule = "text" if name in names else "a plain value"
                raise ValueError(f"column {name!r} of row {row} of {source} holds {_json(value)[:40]}; write {rule}")
    values = [tuple(record.get(name) for name in names) for record in records]
    return values, {name: json_column([record.get(name) for record in records]) for name in slices}


def _records(source: str | Path, data: bytes) -> list[dict[str, Any]]:
    records: list[dict[str, Any]] = []
    for number, line in enumerate(decoded(source, data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {source} is not JSON ({error.msg}); mend or remove that line") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} of {source} is no JSON object; write one object per line")
        records.append(record)
    return records


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _listed(dropped: Counter[str]) -> str:
    return ", ".join(f"{count} with {why}" for why, count in sorted(dropped.items()))

"""Rows from a file: .parquet, .jsonl or .csv, local or behind any URI, as one Arrow table of strings.

`read_rows` gives the columns `row` (int64, the row's number in the file, from 1), `text` (string, trimmed),
`label` (string, null where the row is unlabelled) and one string column for each slice. Labels given as
integers, booleans or whole-numbered floats become strings; a blank label is null. A row whose text is blank
cannot be classified: it is dropped, and `blank_rows` says how many there were, since one empty line in an
export of 20,000 is no reason to stop and no reason to be silent.

Each refusal is one sentence that names the value, the rule and the fix.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

SUFFIXES = (".parquet", ".jsonl", ".csv")
BLANK = b"blank_rows"


def read_rows(source: str | Path, *, text: str = "text", label: str = "label", slices: Sequence[str] = ()) -> pa.Table:
    """Reads one file of rows.

    Args:
        source: a path, or a URI that pyarrow.fs or fsspec knows.
        text: the column with the text; it must hold strings.
        label: the column with the label; blank and null mean unlabelled.
        slices: columns to report by.

    Raises:
        ValueError: in one sentence, for anything that cannot be read as rows.
    """
    suffix = PurePosixPath(str(source)).suffix.lower()
    if suffix not in SUFFIXES:
        raise ValueError(
            f"{source} ends in {suffix or 'no suffix'!r}; rows are read from {', '.join(SUFFIXES)}: convert the file"
        )
    wanted = tuple(dict.fromkeys((text, label, *slices)))
    data = read_bytes(source)
    if not data.strip():
        raise ValueError(f"{source} is empty; it must hold at least one row with a text")
    reader = {".parquet": parquet_rows, ".jsonl": _jsonl, ".csv": _csv}[suffix]
    table = reader(source, data, wanted)
    if table.num_rows == 0:
        raise ValueError(f"{source} has columns but no rows; it must hold at least one row with a text")

    columns: dict[str, Any] = {"row": pa.array(range(1, table.num_rows + 1), pa.int64())}
    columns["text"] = pc.utf8_trim_whitespace(strings_of(source, table[text], text, only_strings=True))
    columns["label"] = _labels(source, table[label], label)
    for name in slices:
        if name in columns:
            raise ValueError(f"{name!r} cannot be a slice of {source}: Deshi uses that name; rename the column")
        columns[name] = blank_to_null(strings_of(source, table[name], name))
    rows = pa.table(columns)
    written = rows.filter(pc.greater(pc.utf8_length(pc.fill_null(rows["text"], "")), 0))
    if written.num_rows == 0:
        raise ValueError(f"column {text!r} of {source} is blank in every row; name the column that holds the text")
    return written.replace_schema_metadata({BLANK: str(rows.num_rows - written.num_rows)})


def blank_rows(table: pa.Table) -> int:
    """How many rows of the file were dropped because their text is blank."""
    return int((table.schema.metadata or {}).get(BLANK, b"0"))


def read_bytes(source: str | Path) -> bytes:
    """The content of a file or URI; refused in one sentence if it cannot be had."""
    if "://" in str(source):
        return _remote_bytes(str(source))
    path = Path(source).expanduser()
    if path.is_dir():
        raise ValueError(f"{source} is a folder; rows are read from one file: name the file, or join its parts")
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ValueError(f"{source} does not exist; check the path (it is relative to the recipe file)") from None
    except OSError as error:
        raise ValueError(f"{source} cannot be read ({error.strerror}); check its permissions") from None


def _remote_bytes(uri: str) -> bytes:
    import fsspec
    from pyarrow import fs

    try:
        try:
            filesystem, path = fs.FileSystem.from_uri(uri)
        except pa.ArrowInvalid:  # a scheme that only fsspec knows
            filesystem, path = fsspec.core.url_to_fs(uri)
            return bytes(filesystem.cat_file(path))
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())
    except FileNotFoundError:
        raise ValueError(f"{uri} does not exist; check the address") from None
    except (OSError, ValueError, ImportError) as error:
        raise ValueError(f"{uri} cannot be read ({_one_line(error)}); check the address and its credentials") from None


def parquet_rows(source: str | Path, data: bytes, wanted: Sequence[str]) -> pa.Table:
    """The wanted columns of a Parquet file; ValueError names the file."""
    import pyarrow.parquet as pq

    try:
        file = pq.ParquetFile(io.BytesIO(data))
        names = file.schema_arrow.names
        refuse_columns(source, names, wanted)
        table = file.read(columns=list(wanted), use_threads=False)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"{source} is not a whole Parquet file ({_one_line(error)}); write it again from its source"
        ) from None
    try:
        table.validate(full=True)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{source} holds text that is not UTF-8 ({_one_line(error)}); write it as UTF-8") from None
    return table


def _jsonl(source: str | Path, data: bytes, wanted: Sequence[str]) -> pa.Table:
    """Line by line, so that a bad line is named and a date stays the string that it is."""
    found: dict[str, list[Any]] = {name: [] for name in wanted}
    names: dict[str, None] = {}
    for number, line in enumerate(decoded(source, data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} of {source} is not JSON ({error.msg}); mend or remove that line") from None
        if not isinstance(record, dict):
            raise ValueError(f"line {number} of {source} is no JSON object; write one object per line")
        names |= dict.fromkeys(record)
        for name in wanted:
            value = record.get(name)
            if isinstance(value, dict | list):
                raise ValueError(f"column {name!r} is nested in line {number} of {source}; write a plain value")
            found[name].append(value)
    refuse_columns(source, list(names), wanted)
    return pa.table({name: json_column(values) for name, values in found.items()})


def json_column(values: list[Any]) -> pa.Array:
    """One Arrow type for the column; values of several types become strings, as they stand in JSON."""
    if len({type(value) for value in values if value is not None}) <= 1:
        try:
            return pa.array(values)
        except (pa.ArrowInvalid, OverflowError):  # an integer beyond 64 bits
            pass
    return pa.array([v if v is None or isinstance(v, str) else json.dumps(v) for v in values], pa.string())


def _csv(source: str | Path, data: bytes, wanted: Sequence[str]) -> pa.Table:
    """Every wanted column as strings: a label 007 stays 007."""
    from pyarrow import csv

    content = decoded(source, data).encode()
    try:
        table = csv.read_csv(
            io.BytesIO(content),
            # One block: a row longer than a block would otherwise be an error.
            read_options=csv.ReadOptions(block_size=min(len(content) + 1, 2**31 - 1), use_threads=False),
            parse_options=csv.ParseOptions(newlines_in_values=True),
            convert_options=csv.ConvertOptions(column_types=dict.fromkeys(wanted, pa.string())),
        )
    except pa.ArrowException as error:
        raise ValueError(
            f"{source} is not a CSV file with commas and a header ({_one_line(error)}); mend that row"
        ) from None
    refuse_columns(source, table.column_names, wanted)
    return table


def decoded(source: str | Path, data: bytes) -> str:
    """A file as UTF-8 text; ValueError names the first byte that is none."""
    try:
        return data.decode("utf-8-sig")  # spreadsheets begin UTF-8 with a byte-order mark
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(
            f"{source} is not UTF-8 (byte 0x{data[error.start]:02x} in line {line}); save it as UTF-8"
        ) from None


def refuse_columns(source: str | Path, names: Sequence[str], wanted: Sequence[str]) -> None:
    """Raises ValueError for a wanted column that the file lacks."""
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"{source} has no column {name!r}; it has {', '.join(map(repr, names))}: name one of them in data"
            )
        if names.count(name) > 1:
            raise ValueError(f"{source} has {names.count(name)} columns called {name!r}; rename all but one")


def strings_of(source: str | Path, column: Any, name: str, *, only_strings: bool = False) -> Any:
    """A column as strings, numbers written out unless `only_strings`; ValueError for what has no such form."""
    kind = column.type
    if pa.types.is_dictionary(kind):  # a pandas categorical
        column = column.cast(kind.value_type)
        kind = column.type
    if pa.types.is_null(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return column.cast(pa.string())
    if pa.types.is_string(kind):
        return column
    if only_strings or pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        rule = "text must be strings" if only_strings else "it must hold plain values"
        raise ValueError(f"column {name!r} of {source} holds {kind}; {rule}: convert it, or name another column")
    return column.cast(pa.string())


def _labels(source: str | Path, column: Any, name: str) -> Any:
    labels = blank_to_null(strings_of(source, column, name))
    present = pc.unique(labels.drop_null()).to_pylist()
    if pa.types.is_floating(column.type) and not all(re.fullmatch(r"-?\d+", value) for value in present):
        fraction = next(value for value in present if not re.fullmatch(r"-?\d+", value))
        raise ValueError(f"label {fraction} of {source} is a fraction; a class needs a name or a whole number")
    # A whole-number column with gaps is often exported as 0.0, 1.0 where its sister file says 0, 1.
    if present and all(re.fullmatch(r"-?\d+\.0", value) for value in present):
        return pc.replace_substring_regex(labels, r"\.0$", "")
    return labels


def blank_to_null(column: Any) -> Any:
    """Strings trimmed; one of white space alone is null."""
    trimmed = pc.utf8_trim_whitespace(column)
    return pc.if_else(pc.equal(pc.utf8_length(trimmed), 0), pa.scalar(None, pa.string()), trimmed)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200].rstrip(". ")

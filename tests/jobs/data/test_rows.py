"""Rows read from real files, compared with pandas and with the values that were written."""

from __future__ import annotations

import json
import re

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from deshi.jobs.data.rows import blank_rows, read_rows

TEXTS = ["How far is it ?", "  東京は何県ですか　", 'a "quoted", comma', "two\nlines", "   "]
LABELS = ["NUM", "LOC", "", "007", "X"]


def _write(path, frame: pd.DataFrame):
    if path.suffix == ".parquet":
        frame.to_parquet(path)
    elif path.suffix == ".csv":
        frame.to_csv(path, index=False)
    else:
        frame.to_json(path, orient="records", lines=True, force_ascii=False)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".jsonl"])
def test_the_three_formats_give_the_same_rows(tmp_path, suffix):
    frame = pd.DataFrame({"q": TEXTS, "kind": LABELS, "shop": ["a", "2024-01-01", "", "b", "c"]})
    table = read_rows(_write(tmp_path / f"rows{suffix}", frame), text="q", label="kind", slices=["shop"])
    assert table.schema.remove_metadata() == pa.schema(
        [("row", pa.int64()), ("text", pa.string()), ("label", pa.string()), ("shop", pa.string())]
    )
    assert table.to_pydict() == {
        "row": [1, 2, 3, 4],
        "text": ["How far is it ?", "東京は何県ですか", 'a "quoted", comma', "two\nlines"],
        "label": ["NUM", "LOC", None, "007"],
        "shop": ["a", "2024-01-01", None, "b"],
    }
    assert blank_rows(table) == 1


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([0, 1, 2], ["0", "1", "2"]),
        ([True, False, True], ["true", "false", "true"]),
        ([1.0, None, 3.0], ["1", None, "3"]),
        (["1.5", "x", None], ["1.5", "x", None]),
    ],
)
@pytest.mark.parametrize("suffix", [".parquet", ".jsonl"])
def test_labels_become_strings(tmp_path, labels, expected, suffix):
    path = _write(tmp_path / f"rows{suffix}", pd.DataFrame({"text": ["a", "b", "c"], "label": labels}))
    assert read_rows(path)["label"].to_pylist() == expected


def test_a_csv_column_of_whole_floats_equals_its_sister_of_integers(tmp_path):
    gaps = _write(tmp_path / "train.csv", pd.DataFrame({"text": ["a", "b"], "label": [1, None]}))
    full = _write(tmp_path / "test.csv", pd.DataFrame({"text": ["c"], "label": [1]}))
    assert gaps.read_text().splitlines()[1] == "a,1.0"
    assert read_rows(gaps)["label"].to_pylist() == ["1", None]
    assert read_rows(full)["label"].to_pylist() == ["1"]


def test_dictionary_columns_long_rows_and_a_byte_order_mark(tmp_path):
    long = "word " * 400_000  # 2 MB: longer than pyarrow's CSV block
    (tmp_path / "bom.csv").write_bytes(b"\xef\xbb\xbf" + f"text,label\n{long},a\nshort,b\n".encode())
    assert read_rows(tmp_path / "bom.csv")["text"].to_pylist() == [long.strip(), "short"]
    (tmp_path / "bom.jsonl").write_bytes(b'\xef\xbb\xbf{"text": "a", "label": "b"}\n')
    assert read_rows(tmp_path / "bom.jsonl")["label"].to_pylist() == ["b"]
    table = pa.table(
        {"text": pa.array(["x", "y"]).dictionary_encode(), "label": pa.array(["a", None], pa.large_string())}
    )
    pq.write_table(table, tmp_path / "d.parquet")
    assert read_rows(tmp_path / "d.parquet")["label"].to_pylist() == ["a", None]


def test_uris_of_pyarrow_and_of_fsspec(tmp_path):
    import fsspec

    _write(tmp_path / "rows.csv", pd.DataFrame({"text": ["a"], "label": ["x"]}))
    assert read_rows((tmp_path / "rows.csv").as_uri())["text"].to_pylist() == ["a"]
    with fsspec.open("memory://deshi/rows.jsonl", "wb") as file:
        file.write(b'{"text": "b", "label": 3}\n')
    assert read_rows("memory://deshi/rows.jsonl")["label"].to_pylist() == ["3"]
    with pytest.raises(ValueError, match="does not exist"):
        read_rows("memory://deshi/none.jsonl")


def _parquet_bytes(**columns) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue().to_pybytes()


REFUSED = {
    "suffix": ("rows.xlsx", b"x", r"'\.xlsx'; rows are read from \.parquet, \.jsonl, \.csv"),
    "column": ("rows.csv", b"question,label\na,b\n", "no column 'text'; it has 'question', 'label'"),
    "twice": ("rows.csv", b"text,text,label\na,b,c\n", "2 columns called 'text'"),
    "empty": ("rows.jsonl", b"", "is empty"),
    "header only": ("rows.csv", b"text,label\n", "no rows"),
    "no parquet": ("rows.parquet", b"PAR1 not really", "not a whole Parquet file"),
    "cut parquet": (
        "rows.parquet",
        _parquet_bytes(text=["a" * 99], label=["b"])[:-20],
        "not a whole Parquet file",
    ),
    "json line": ("rows.jsonl", b'{"text": "a", "label": "b"}\n{"text": \n', "line 2 of .* is not JSON"),
    "json array": ("rows.jsonl", b"[1]\n", "line 1 .* no JSON object"),
    "nested": ("rows.jsonl", b'{"text": ["a"], "label": "b"}\n', "'text' is nested in line 1"),
    "csv": ("rows.csv", b"text,label\na,b\nc,d,e\n", "not a CSV file .*Row #3"),
    "number": (
        "rows.parquet",
        _parquet_bytes(text=[1, 2], label=["a", "b"]),
        "holds int64; text must be strings",
    ),
    "bytes": ("rows.parquet", _parquet_bytes(text=[b"a"], label=["a"]), "holds binary"),
    "fraction": (
        "rows.parquet",
        _parquet_bytes(text=["a", "b"], label=[0.5, 1.0]),
        "label 0.5 of .* fraction",
    ),
    "blank": ("rows.csv", b"text,label\n  ,a\n,b\n", "blank in every row"),
    "encoding": (
        "rows.csv",
        "text,label\nx,y\n東京,a\n".encode("cp932"),
        r"not UTF-8 \(byte 0x93 in line 3\)",
    ),
    "encoding in parquet": (
        "rows.parquet",
        _parquet_bytes(text=pa.array([b"\xff\xfe"]).cast(pa.binary()).view(pa.string()), label=["a"]),
        "not UTF-8",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refusals_are_one_sentence_with_the_value_and_the_rule(tmp_path, case):
    name, data, match = REFUSED[case]
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=match) as caught:
        read_rows(tmp_path / name)
    message = str(caught.value)
    assert name in message and "\n" not in message and not message.endswith(".")


def test_missing_file_folder_and_slice_named_like_ours(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_rows(tmp_path / "none.csv")
    (tmp_path / "folder.parquet").mkdir()
    with pytest.raises(ValueError, match="is a folder"):
        read_rows(tmp_path / "folder.parquet")
    (tmp_path / "rows.jsonl").write_text(json.dumps({"q": "a", "label": "b", "text": "c"}))
    with pytest.raises(ValueError, match=re.escape("'text' cannot be a slice")):
        read_rows(tmp_path / "rows.jsonl", text="q", slices=["text"])

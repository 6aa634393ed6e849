"""What a file says is read as gguf's own reader reads it; a broken one ends in one sentence, whatever is broken."""

from __future__ import annotations

import random
import struct

import gguf
import numpy as np
import pytest

from deshi.jobs.data.gguf_header import read_header, stored_bytes


@pytest.fixture
def file(tmp_path):
    """Every kind of value, and tensors of three types."""
    path = tmp_path / "small.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_uint32("a.u32", 7)
    writer.add_int64("a.i64", -(2**40))
    writer.add_float32("a.f32", 0.5)
    writer.add_float64("a.f64", 0.1)
    writer.add_bool("a.bool", True)
    writer.add_string("a.text", "日本 text")
    writer.add_array("a.numbers", [3, -1, 2])
    writer.add_array("a.texts", ["x", "", "é"])
    rng = np.random.default_rng(0)
    writer.add_tensor("vector", rng.random(5).astype(np.float32))
    writer.add_tensor("half", rng.random((3, 32)).astype(np.float16))
    blocks = gguf.quants.quantize(rng.random((2, 64)).astype(np.float32), gguf.GGMLQuantizationType.Q8_0)
    writer.add_tensor("blocks", blocks, raw_dtype=gguf.GGMLQuantizationType.Q8_0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_it_is_read_as_gguf_reads_it(file):
    header = read_header(file)
    reader = gguf.GGUFReader(file)
    want = {name: field.contents() for name, field in reader.fields.items() if not name.startswith("GGUF.")}
    assert header.metadata == want
    assert header.architecture == "llama"
    content = file.read_bytes()
    assert [tensor.name for tensor in header.tensors] == ["vector", "half", "blocks"]
    for ours, theirs in zip(header.tensors, reader.tensors, strict=True):
        assert ours.shape == tuple(reversed(theirs.shape.tolist()))
        assert ours.type == theirs.tensor_type
        begin = header.data + ours.offset
        assert begin == theirs.data_offset
        assert content[begin : begin + stored_bytes(ours)] == theirs.data.tobytes()


def test_no_file_no_gguf_and_another_version(file, tmp_path):
    with pytest.raises(ValueError, match=r"none\.gguf does not exist"):
        read_header(tmp_path / "none.gguf")
    with pytest.raises(ValueError, match=r"is a folder; give the \.gguf file itself"):
        read_header(tmp_path)
    for content, said in (
        (b"", "it starts with b''"),
        (b"PK\x03\x04" + b"0" * 90, "it starts with b'PK"),
        (b"GGUF\3", "ends after 5 bytes"),
    ):
        (tmp_path / "other.gguf").write_bytes(content)
        with pytest.raises(ValueError, match=said):
            read_header(tmp_path / "other.gguf")
    content = bytearray(file.read_bytes())
    content[4:8] = struct.pack("<I", 1)
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is GGUF version 1; versions 2 and 3 are read"):
        read_header(file)
    content[4:8] = struct.pack(">I", 3)  # big-endian
    file.write_bytes(content)
    with pytest.raises(ValueError, match="is GGUF version 50331648"):
        read_header(file)


def test_a_file_cut_anywhere_is_refused(file, tmp_path):
    content = file.read_bytes()
    cut = tmp_path / "cut.gguf"
    for size in range(24, len(content.rstrip(b"\0")) - 1):
        cut.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"cut\.gguf is broken or cut off") as refusal:
            read_header(cut)
        assert "\n" not in str(refusal.value)


@pytest.mark.timeout(60)
def test_a_header_of_wrong_bytes_is_read_or_refused_and_ends(file, tmp_path):
    """Counts and lengths of up to 2^64 among them: nothing is believed that the file cannot hold."""
    content, rng = file.read_bytes(), random.Random(0)
    end = read_header(file).data
    spoiled, refused = tmp_path / "spoiled.gguf", 0
    for _ in range(3000):
        changed = bytearray(content)
        at = rng.randrange(8, end - 8)
        changed[at : at + rng.choice((1, 1, 4, 8))] = rng.choice((b"\xff", b"\0", b"\x7f", b"\xff" * 4, b"\xff" * 8))
        spoiled.write_bytes(changed)
        try:
            read_header(spoiled)
        except ValueError as error:
            assert str(error).startswith(str(spoiled)) and "\n" not in str(error)
            refused += 1
    assert 300 < refused < 2900

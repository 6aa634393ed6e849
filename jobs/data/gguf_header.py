"""The door for GGUF files: magic, version, metadata and tensor table, read with every length checked first.

    "GGUF" | version u32 | tensors u64 | keys u64 | key: name, type u32, value ... | tensor: name, dims, type, offset
    ... | padding to the alignment | tensor data

A length or a count that the rest of the file cannot hold ends the reading: `gguf.GGUFReader` believes such counts and
does not return. A file that was cut off while it was copied is found here too, since each tensor's bytes must lie
within the file. Nothing here loads weights.
"""

from __future__ import annotations

import math
import mmap
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT = 32  # bytes, where the metadata names no other
STRING, ARRAY = 8, 9
NUMBERS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
DIMENSIONS_MOST = 4  # GGML_MAX_DIMS


@dataclass(frozen=True, kw_only=True)
class GgufTensor:
    """`shape` in torch order (rows first); `offset` in bytes from the start of the tensor data."""

    name: str
    shape: tuple[int, ...]
    type: int
    offset: int


@dataclass(frozen=True, kw_only=True)
class GgufHeader:
    """What a GGUF file says about itself. `data`: bytes from the file's start to the tensor data."""

    metadata: dict[str, Any]
    tensors: tuple[GgufTensor, ...]
    data: int

    @property
    def architecture(self) -> str:
        """`general.architecture`, empty where the file names none."""
        return str(self.metadata.get("general.architecture", ""))


def read_header(path: Path) -> GgufHeader:
    """Metadata and tensor table of a whole GGUF file, little-endian, version 2 or 3.

    Raises:
        ValueError: in one sentence, for a file that is missing, is no GGUF, or is broken or cut off.
    """
    if not path.exists():
        raise ValueError(f"GGUF file {path} does not exist; check the path")
    if not path.is_file():
        raise ValueError(f"{path} is a folder; give the .gguf file itself")
    with path.open("rb") as file:
        head = file.read(24)
        if head[:4] != MAGIC:
            raise ValueError(f"{path} is not a GGUF file (it starts with {head[:4]!r}); give the .gguf file itself")
        if len(head) < 24:
            raise ValueError(f"{path} is broken: it ends after {len(head)} bytes, within its header; get it again")
        version, tensors, keys = struct.unpack_from("<IQQ", head, 4)
        if version not in VERSIONS:
            raise ValueError(f"{path} is GGUF version {version}; versions 2 and 3 are read: convert it again")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                return _parse(_Cursor(content), tensors=tensors, keys=keys)
            except (_BrokenFile, UnicodeDecodeError) as error:
                raise ValueError(f"{path} is broken or cut off ({error}); get it again") from None


class _BrokenFile(Exception):
    """Carries what does not fit."""


class _Cursor:
    """Reads forward through the file and never past its end: whatever count is announced, reading ends there."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content = content
        self.at = 24

    def take(self, count: int) -> bytes:
        if count > len(self.content) - self.at:
            raise _BrokenFile(f"{count} bytes are announced at {self.at} of {len(self.content)}")
        self.at += count
        return self.content[self.at - count : self.at]

    def number(self, code: str) -> Any:
        return struct.unpack("<" + code, self.take(struct.calcsize("<" + code)))[0]

    def string(self) -> str:
        return self.take(self.number("Q")).decode("utf-8")

    def value(self, kind: int) -> Any:
        if kind in NUMBERS:
            return self.number(NUMBERS[kind])
        if kind == STRING:
            return self.string()
        if kind != ARRAY:
            raise _BrokenFile(f"value type {kind} at {self.at} does not exist")
        inner, count = self.number("I"), self.number("Q")
        if inner in NUMBERS:
            code = NUMBERS[inner]
            return list(struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize("<" + code))))
        if inner != STRING:
            raise _BrokenFile(f"an array of type {inner} at {self.at} is not read")
        return [self.string() for _ in range(count)]


def _parse(cursor: _Cursor, *, tensors: int, keys: int) -> GgufHeader:
    metadata = {}
    for _ in range(keys):
        name = cursor.string()
        metadata[name] = cursor.value(cursor.number("I"))
    table = []
    for _ in range(tensors):
        name, dimensions = cursor.string(), cursor.number("I")
        if not 1 <= dimensions <= DIMENSIONS_MOST:
            raise _BrokenFile(f"tensor {name!r} has {dimensions} dimensions")
        shape = tuple(reversed([cursor.number("Q") for _ in range(dimensions)]))  # the file has the fastest first
        table.append(GgufTensor(name=name, shape=shape, type=cursor.number("I"), offset=cursor.number("Q")))
    alignment = metadata.get("general.alignment", ALIGNMENT)
    if not isinstance(alignment, int) or alignment < 1:
        raise _BrokenFile(f"its alignment is {alignment!r}")
    data = math.ceil(cursor.at / alignment) * alignment
    for tensor in table:
        if data + tensor.offset + stored_bytes(tensor) > len(cursor.content):
            raise _BrokenFile(f"tensor {tensor.name!r} reaches beyond the end of the file")
    return GgufHeader(metadata=metadata, tensors=tuple(table), data=data)


def stored_bytes(tensor: GgufTensor) -> int:
    """What the tensor takes in the file, in whole blocks of its type."""
    from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

    try:
        values, size = GGML_QUANT_SIZES[GGMLQuantizationType(tensor.type)]
    except ValueError:
        raise _BrokenFile(f"tensor {tensor.name!r} has the unknown type {tensor.type}") from None
    if tensor.shape[-1] % values:
        raise _BrokenFile(f"tensor {tensor.name!r} has rows of {tensor.shape[-1]}, no multiple of {values}")
    return math.prod(tensor.shape) // values * size

"""The key-value part of a GGUF file, for tests. Source: the GGUF v3 specification of llama.cpp."""

import struct
from pathlib import Path
from typing import Any, BinaryIO

_NUMBERS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


def gguf_values(path: Path) -> dict[str, Any]:
    """Return the keys and values at the beginning of a file."""
    with path.open("rb") as stream:
        magic, _, _, num_keys = struct.unpack("<4sIQQ", stream.read(24))
        assert magic == b"GGUF"
        return {_string(stream): _value(stream, _number(stream, "I")) for _ in range(num_keys)}


def _value(stream: BinaryIO, kind: int) -> Any:
    if kind == _STRING:
        return _string(stream)
    if kind == _ARRAY:
        inner, size = _number(stream, "I"), _number(stream, "Q")
        return [_value(stream, inner) for _ in range(size)]
    return _number(stream, _NUMBERS[kind])


def _string(stream: BinaryIO) -> str:
    return stream.read(_number(stream, "Q")).decode()


def _number(stream: BinaryIO, code: str) -> Any:
    return struct.unpack(f"<{code}", stream.read(struct.calcsize(f"<{code}")))[0]

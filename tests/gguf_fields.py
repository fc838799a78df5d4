"""The keys of a GGUF file, read as its specification says; the `gguf` package takes seconds."""

import struct
from pathlib import Path
from typing import Any

FORMATS = dict(enumerate(("B", "b", "H", "h", "I", "i", "f", "?"))) | {10: "Q", 11: "q", 12: "d"}
STRING, ARRAY = 8, 9


class Header:
    """Reads values from the beginning of a file."""

    def __init__(self, data: bytes) -> None:
        self.data, self.position = data, 0

    def number(self, form: str) -> Any:
        (value,) = struct.unpack_from(f"<{form}", self.data, self.position)
        self.position += struct.calcsize(f"<{form}")
        return value

    def text(self) -> str:
        size = self.number("Q")
        self.position += size
        return self.data[self.position - size : self.position].decode()

    def value(self, kind: int) -> Any:
        if kind == STRING:
            return self.text()
        if kind == ARRAY:
            inner, count = self.number("I"), self.number("Q")
            return [self.value(inner) for _ in range(count)]
        return self.number(FORMATS[kind])


def gguf_fields(path: Path) -> dict[str, Any]:
    header = Header(path.read_bytes())
    assert header.number("I") == 0x46554747
    assert header.number("I") in (2, 3)
    header.number("Q")
    count = header.number("Q")
    return {header.text(): header.value(header.number("I")) for _ in range(count)}

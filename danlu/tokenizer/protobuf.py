"""Just enough of the protobuf wire format to read and lengthen sentencepiece models.

Source: protobuf encoding (varint, 64-bit, length-delimited and 32-bit fields) and
`sentencepiece_model.proto` of sentencepiece 0.2.
"""

import struct
from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a message; fixed-width values as their bytes."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        kind = key & 7
        if kind == VARINT:
            value, position = _varint(message, position)
            yield key >> 3, value
            continue
        if kind == BYTES:
            size, position = _varint(message, position)
        else:
            size = {FIXED64: 8, FIXED32: 4}[kind]
        yield key >> 3, message[position : position + size]
        position += size


def number_field(field: int, value: int) -> bytes:
    """Return a varint field."""
    return _as_varint(field << 3 | VARINT) + _as_varint(value)


def float_field(field: int, value: float) -> bytes:
    """Return a 32-bit float field."""
    return _as_varint(field << 3 | FIXED32) + struct.pack("<f", value)


def bytes_field(field: int, value: bytes) -> bytes:
    """Return a length-delimited field: text, bytes or a message."""
    return _as_varint(field << 3 | BYTES) + _as_varint(len(value)) + value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position


def _as_varint(value: int) -> bytes:
    data = bytearray()
    while value >= 0x80:
        data.append(value & 0x7F | 0x80)
        value >>= 7
    data.append(value)
    return bytes(data)

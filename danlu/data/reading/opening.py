"""A data file as bytes or lines, gzip undone, and what it holds, told by its first bytes."""

import gzip
import io
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import BinaryIO, cast

from danlu.data.reading.problems import Problems
from danlu.errors import DataError

HEAD_BYTES = 1 << 16
LONG_LINE_BYTES = 1 << 20
CHUNK_BYTES = 1 << 20
BYTE_ORDER_MARK = b"\xef\xbb\xbf"
NOT_UTF8 = re.compile("[\udc80-\udcff]")  # what 'surrogateescape' makes of wrong bytes

_GZIP = b"\x1f\x8b"
_FOREIGN = {
    b"PK\x03\x04": "a zip archive (or a spreadsheet)",
    b"\x28\xb5\x2f\xfd": "compressed with zstd",
    b"\xfd7zXZ": "compressed with xz",
    b"BZh": "compressed with bzip2",
    b"\xff\xfe": "text in UTF-16",
    b"\xfe\xff": "text in UTF-16",
    b"SQLite format": "an SQLite data base",
    b"\x89PNG": "an image",
    b"\xff\xd8\xff": "an image",
    b"%PDF": "a PDF document",
}


class Content(Enum):
    """What a file holds."""

    EMPTY = "nothing"
    JSON_LINES = "JSON Lines"
    JSON_LIST = "a JSON list"
    JSON_OBJECT = "JSON objects over several lines, or one alone"
    PARQUET = "Parquet"
    PLAIN = "plain text, which may be a table"


def content_of(path: Path) -> Content:
    """Return what the file holds; its name does not matter.

    Raises:
        DataError: if it cannot be opened, or is none of these (an archive, UTF-16).
    """
    with opened(path) as handle:
        head = handle.read(HEAD_BYTES).removeprefix(BYTE_ORDER_MARK)
    if head.startswith(b"PAR1"):
        return Content.PARQUET
    for mark, name in _FOREIGN.items():
        if head.startswith(mark):
            raise DataError(
                f"'{path}' is {name}. Expected JSON, JSON Lines, CSV, Parquet or text in UTF-8, "
                "plain or in gzip. Unpack or convert it first."
            )
    text = head.decode("utf-8", "replace").lstrip()
    if not text:
        return Content.EMPTY
    if text[0] in '{["' and _looks_like_json(text):
        return _lines_or_value(path, text[0])
    return Content.PLAIN


def _looks_like_json(text: str) -> bool:
    """Return whether a text that begins with a bracket goes on like JSON, unlike '[Scene 1]'."""
    return re.match(r'"|\{\s*["}]|\[\s*[\[{"\]]|[\[{]\s*$', text) is not None


def _lines_or_value(path: Path, first: str) -> Content:
    """Tell JSON Lines, whose lines are whole values, from a value over all lines."""
    with opened(path) as handle:
        begin = list(islice(_filled_lines(handle), 2))
    value = Content.JSON_LIST if first == "[" else Content.JSON_OBJECT
    if first == '"':  # prose may begin with a quotation
        return Content.JSON_LINES if _is_json(begin[0]) else Content.PLAIN
    is_long = len(begin[0]) >= LONG_LINE_BYTES  # looked at no closer, so as not to read it twice
    if first == "[":  # a list in one line holds the rows, unless other lines follow it
        is_lines = not is_long and [_is_json(line) for line in begin] == [True, True]
    elif is_long or _is_json(begin[0]):  # an object alone may hold a list of rows
        is_lines = len(begin) > 1
    else:
        goes_on = begin[0].endswith((b"[", b"{", b","))
        is_lines = len(begin) > 1 and _is_json(begin[1]) and not goes_on
    return Content.JSON_LINES if is_lines else value


def _filled_lines(handle: BinaryIO) -> Iterator[bytes]:
    """Yield the lines that are not blank, of each at most the first `LONG_LINE_BYTES`."""
    while line := handle.readline(LONG_LINE_BYTES):
        cut = line
        while len(cut) == LONG_LINE_BYTES and not cut.endswith(b"\n"):
            cut = handle.readline(LONG_LINE_BYTES)
        filled = line.removeprefix(BYTE_ORDER_MARK).strip()
        if filled:
            yield filled


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading, unpacked if it is in gzip.

    Raises:
        DataError: if it cannot be opened or read, or the gzip data is damaged.
    """
    try:
        with path.open("rb") as raw:
            if raw.peek(2)[:2] != _GZIP:
                yield raw
                return
            with gzip.open(raw) as unpacked:
                yield cast(BinaryIO, unpacked)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(damaged(path, error)) from error
    except OSError as error:
        raise DataError(
            f"Cannot read '{path}': {error.strerror or error}. Expected a readable file. "
            "Check the path and its permissions."
        ) from error


def damaged(path: Path, error: Exception) -> str:
    """Return what is wrong with a file in gzip."""
    return (
        f"{path}: the gzip data is cut off or damaged ({error}). Expected a whole file; "
        "copy or download it again"
    )


def read_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); a line that is not UTF-8 is a problem.

    A byte order mark at the start of the file is not part of the text.

    Raises:
        DataError: if the file cannot be opened.
    """
    for number, line in decoded_lines(path, problems):
        if line.isascii() or not NOT_UTF8.search(line):
            yield number, line.rstrip("\r\n")


def decoded_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield (line number, line with its end), also those that are not UTF-8.

    A line with wrong bytes matches `NOT_UTF8`, and is a problem already.
    """
    offset = 0
    for number, raw in enumerate(_raw_lines(path, problems), start=1):
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            problems.append(not_utf8(path, number, offset + error.start, raw[error.start]))
            text = raw.decode("utf-8", "surrogateescape")
        yield number, text.removeprefix("\ufeff") if number == 1 else text
        offset += len(raw)


def _raw_lines(path: Path, problems: Problems) -> Iterator[bytes]:
    with opened(path) as handle:
        try:
            yield from handle
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problems.append(damaged(path, error))


def read_chunks(path: Path, problems: Problems) -> Iterator[bytes]:
    """Yield the bytes of a file a megabyte at a time; damaged gzip data is a problem.

    Raises:
        DataError: if the file cannot be opened.
    """
    with opened(path) as handle:
        try:
            while chunk := handle.read(CHUNK_BYTES):
                yield chunk
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            problems.append(damaged(path, error))


def not_utf8(path: Path, line: int, offset: int, byte: int) -> str:
    """Return the problem of a byte that is not UTF-8."""
    return f"{path}:{line}: byte 0x{byte:02x} at byte offset {offset} is not UTF-8"


@contextmanager
def seekable(path: Path) -> Iterator[BinaryIO]:
    """Open a file for reading anywhere; one in gzip is unpacked into a temporary file.

    Raises:
        DataError: as `opened`.
    """
    with opened(path) as handle:
        if isinstance(handle, io.BufferedReader):
            yield handle
            return
        with tempfile.TemporaryFile() as unpacked:
            shutil.copyfileobj(handle, unpacked)
            unpacked.seek(0)
            yield cast(BinaryIO, unpacked)

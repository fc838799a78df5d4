"""JSON and JSON Lines rows with their `file:line`, read strictly; shared by every reader here."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from danlu.errors import DataError, bullet_list

Problems = list[str]


def raise_problems(problems: Problems, path: Path, expected: str) -> None:
    """Raise one `DataError` that lists all problems found in `path`; do nothing if there are none.

    Args:
        problems: one line each, beginning with ``file:line``.
        path: the file or folder that was read.
        expected: what a good row looks like, and how to fix a bad one.
    """
    if problems:
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        raise DataError(f"{count} in '{path}':{bullet_list(problems)}\n{expected}")


def read_lines(path: Path, problems: Problems) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, line without its end); a line that is not UTF-8 is a problem.

    A byte order mark at the start of the file is not part of the text.

    Raises:
        DataError: if the file cannot be opened.
    """
    offset = 0
    with _open(path) as handle:
        for number, raw in enumerate(handle, start=1):
            try:
                text = raw.decode("utf-8")
            except UnicodeDecodeError as error:
                problems.append(_not_utf8(path, number, offset + error.start, raw[error.start]))
            else:
                yield number, (text.removeprefix("\ufeff") if number == 1 else text).rstrip("\r\n")
            offset += len(raw)


def _open(path: Path) -> BinaryIO:
    try:
        return path.open("rb")
    except OSError as error:
        raise DataError(
            f"Cannot read '{path}': {error.strerror or error}. Expected a readable file. "
            "Check the path and its permissions."
        ) from error


def _not_utf8(path: Path, line: int, offset: int, byte: int) -> str:
    return f"{path}:{line}: byte 0x{byte:02x} at byte offset {offset} is not UTF-8"


def read_rows(path: Path, problems: Problems) -> Iterator[tuple[str, object]]:
    """Yield (``file:line``, value) for each row of a `.jsonl` file or of a `.json` list.

    Malformed rows are added to `problems`. A `.json` file that holds one object per line is read
    as JSON Lines. Blank lines are no rows.
    """
    if path.suffix == ".json" and _begins_with(path, b"["):
        yield from _rows_of_list(path, problems)
        return
    for number, line in read_lines(path, problems):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError as error:
                problems.append(f"{path}:{number}: not JSON: {_reason(error)}")


def _begins_with(path: Path, mark: bytes) -> bool:
    with _open(path) as handle:
        return handle.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip().startswith(mark)


def _rows_of_list(path: Path, problems: Problems) -> Iterator[tuple[str, object]]:
    """Decode the items of a JSON list one by one, so that each knows its first line."""
    known_problems = len(problems)
    text = "\n".join(line for _, line in read_lines(path, problems))
    if len(problems) > known_problems:
        return
    decoder, line, counted = json.JSONDecoder(), 1, 0
    at = _skip_blank(text, text.index("[") + 1)
    while not text.startswith("]", at):
        line, counted = line + text.count("\n", counted, at), at
        try:
            value, at = decoder.raw_decode(text, at)
            at = _after_item(text, at)
        except ValueError as error:
            problems.append(f"{path}:{_line_of(error, line)}: not JSON: {_reason(error)}")
            return
        yield f"{path}:{line}", value
    _nothing_after(path, text, at + 1, problems)


def _nothing_after(path: Path, text: str, at: int, problems: Problems) -> None:
    if text[at:].strip():
        line = text.count("\n", 0, _skip_blank(text, at)) + 1
        problems.append(f"{path}:{line}: not JSON: text after the end of the list")


def _skip_blank(text: str, at: int) -> int:
    while at < len(text) and text[at] in " \t\r\n":
        at += 1
    return at


def _after_item(text: str, at: int) -> int:
    """Return where the next item or the closing bracket is, past the comma between items."""
    at = _skip_blank(text, at)
    if text.startswith("]", at):
        return at
    if not text.startswith(",", at):
        raise json.JSONDecodeError("expected ',' or ']' after an item", text, at)
    at = _skip_blank(text, at + 1)
    if text.startswith("]", at):
        raise json.JSONDecodeError("a comma before the closing ']'", text, at)
    return at


def _line_of(error: ValueError, otherwise: int) -> int:
    return error.lineno if isinstance(error, json.JSONDecodeError) else otherwise


def _reason(error: ValueError) -> str:
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (column {error.colno})"
    return str(error)

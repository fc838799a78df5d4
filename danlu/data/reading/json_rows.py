"""Rows of JSON files, one by one: JSON Lines, a list, or an object that holds lists of rows.

A list is decoded item by item from a window of the file, so that only the longest item must fit in
memory; what cannot be decoded is a problem with its line.
"""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from danlu.data.reading.json_window import NotJson, Window
from danlu.data.reading.opening import read_lines
from danlu.data.reading.problems import Problems
from danlu.data.reading.strict_json import StrictDecoder, reason_of
from danlu.errors import did_you_mean

DEFAULT_PART = "train"
HELD_OUT_PARTS = ("dev", "valid", "validation", "eval", "test", "quant")


def line_rows(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, value) for each line that is not blank."""
    decoder = StrictDecoder()
    for number, line in read_lines(path, problems):
        if not line.strip():
            continue
        try:
            value = decoder.whole(line)
        except (ValueError, RecursionError) as error:
            problems.append(f"{path}:{number}: not JSON: {reason_of(error)}")
            continue
        doubt = decoder.doubt(value, line, 0, len(line))
        if doubt:
            problems.append(f"{path}:{number}: {doubt}")
        else:
            yield f"{path}:{number}", value


def list_rows(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, value) for each item of the list that a file is."""
    window = Window(path, problems)
    with _noting_errors(window, path, problems):
        yield from window.items()
        if window.peek():
            raise NotJson(window.here(), "text after the end of the list")


def object_rows(
    path: Path, problems: Problems, part: str | None, row_keys: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, row) for each row of a file that is an object, or several.

    Objects one after another are the rows, and so is one alone with any of `row_keys` or without a
    list of objects or texts. Another holds the rows in the list under the key `part`; with `part`
    None in the list under ``train``, or in the only list that is not a held-out part.
    """
    window = Window(path, problems)
    with _noting_errors(window, path, problems):
        found = _keys_of_object(Window(path, Problems()))
        holds_rows = found is not None and (any(found.values()) or part is not None)
        if found is None or set(row_keys) & found.keys() or not holds_rows:
            yield from window.values()
            return
        chosen = _chosen_list(found, path, problems, part)
        for key in window.names():
            if key == chosen:
                yield from window.items()
            else:
                window.pass_by()


@contextmanager
def _noting_errors(window: "Window", path: Path, problems: Problems) -> Iterator[None]:
    try:
        yield
    except NotJson as error:
        if not window.broken_off:
            problems.append(f"{path}:{error.line}: not JSON: {error}")


def _keys_of_object(window: "Window") -> dict[str, bool] | None:
    """Return the keys of the first object, each with whether it holds a list of rows.

    None if other objects follow it.
    """
    found = {key: window.pass_by() for key in window.names()}
    return None if window.peek() else found


def _chosen_list(
    found: dict[str, bool], path: Path, problems: Problems, part: str | None
) -> str | None:
    lists = [key for key, holds_rows in found.items() if holds_rows]
    wanted = [key for key in lists if key not in HELD_OUT_PARTS]
    if part is None and DEFAULT_PART in lists:
        return DEFAULT_PART
    if part is None and len(wanted) == 1:
        return wanted[0]
    if part is not None and part in lists:
        return part
    there = f"lists of rows: {', '.join(lists)}" if lists else f"keys: {', '.join(found)}"
    if part is None:
        problem = f"which list is to be read? Choose with split, or as '{path}:{lists[0]}'"
    else:
        problem = f"there is no list {part!r} to read.{did_you_mean(part, lists)}"
    problems.append(f"{path}: {problem}; the object's {there}")
    return None

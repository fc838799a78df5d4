"""Rows with their `file:line` from any file that holds some; what it holds is told by its content.

JSON Lines, a JSON list, JSON objects one after another, one object with a list of rows in it, CSV
and TSV with a header, Parquet; each plain or in gzip. Rows come one by one, and a file is never in
memory as a whole.
"""

from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from danlu.config.data import DataSource
from danlu.data.reading.json_rows import line_rows, list_rows, object_rows
from danlu.data.reading.locating import Place, places_of
from danlu.data.reading.opening import Content, content_of
from danlu.data.reading.problems import Problems
from danlu.data.reading.table_rows import hub_rows, parquet_rows, table_rows
from danlu.errors import DataError, did_you_mean

PART_KEY = "split"  # the column that says which part a row belongs to
_JSON_NAMES = (".json", ".jsonl", ".ndjson")
_TABLE_NAMES = (".csv", ".tsv")


def source_rows(
    source: Path | str | DataSource, problems: Problems, row_keys: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, value) for each row of a source.

    Args:
        source: what to read.
        problems: gets what is wrong in the files; a file without any row is a problem.
        row_keys: keys that a row may have. A file that is one JSON object with one of them is one
            row; another such file holds rows in a list.

    Raises:
        DataError: if there is nothing to read at all.
    """
    for place in places_of(source):
        known, empty = len(problems), True
        try:
            for found in rows_of(place, problems, row_keys):
                empty = False
                yield found
        except DataError as error:
            problems.append(str(error))
        if empty and len(problems) == known:
            problems.append(f"{place.path}: the file has no rows; it is empty")


def read_rows(
    path: Path, problems: Problems, row_keys: Collection[str] = (), part: str | None = None
) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, value) for each row of one file; see `source_rows`.

    Malformed rows are added to `problems`. Blank lines are no rows.

    Raises:
        DataError: if the file cannot be opened, or holds no rows at all (an archive, say).
    """
    content = content_of(path)
    if content == Content.EMPTY:
        return
    if content == Content.PARQUET:
        rows = parquet_rows(path, problems)
    elif content == Content.JSON_LIST:
        rows = list_rows(path, problems)
    elif content == Content.JSON_OBJECT:
        rows = object_rows(path, problems, part, row_keys)
    elif content == Content.JSON_LINES or _suffix(path) in _JSON_NAMES:
        rows = line_rows(path, problems)
    else:
        rows = table_rows(path, problems)
    yield from rows


def names_rows(path: Path) -> bool:
    """Return whether the name promises rows; content that is none is then an error, not text."""
    return _suffix(path) in _JSON_NAMES + _TABLE_NAMES


def rows_of(
    place: Place, problems: Problems, row_keys: Collection[str] = ()
) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, value) for each row of one place; see `source_rows`.

    Raises:
        DataError: if it cannot be opened.
    """
    if place.on_hub:
        yield from hub_rows(str(place.path), place.part or "", problems)
    elif place.part is None:
        yield from read_rows(place.path, problems, row_keys)
    else:
        yield from _rows_of_part(place.path, place.part, problems, row_keys)


def _rows_of_part(
    path: Path, part: str, problems: Problems, row_keys: Collection[str]
) -> Iterator[tuple[str, Any]]:
    """Yield the rows of one part: those of its list, or those that name it under `PART_KEY`."""
    known, others, empty = len(problems), set[str](), True
    in_object = content_of(path) == Content.JSON_OBJECT
    for origin, row in read_rows(path, problems, row_keys, part):
        name = part if in_object else row.get(PART_KEY) if isinstance(row, dict) else None
        if name == part:
            empty = False
            yield origin, row
        else:
            others.add(str(name))
    if empty and len(problems) == known:
        found = ", ".join(sorted(others - {"None"})) or f"none that a row names under '{PART_KEY}'"
        hint = did_you_mean(part, others)
        problems.append(f"{path}: no row of the part {part!r}; its parts: {found}.{hint}")


def _suffix(path: Path) -> str:
    return Path(path.name.removesuffix(".gz")).suffix

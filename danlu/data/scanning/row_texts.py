"""The texts of any row, whatever its shape: what a scan compares."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from danlu.config.data import DataSource
from danlu.data.reading.locating import Place, as_source, is_data_file, places_of
from danlu.data.reading.opening import Content, content_of
from danlu.data.reading.problems import Problems
from danlu.data.reading.rows import names_rows, rows_of
from danlu.data.reading.table_rows import enumerate_records, header_of
from danlu.data.sources import TEXT, read_corpus
from danlu.errors import DataError

# Fields that say what a text is; they are not texts themselves.
NO_TEXTS = frozenset({"role", "from", "id", "type", "kind", "split", "task_id", "question_id"})


class RowText(NamedTuple):
    """One text of a row and the key it stands under; a text in a list has the key of the list."""

    key: str
    text: str


class RowTexts(NamedTuple):
    """The texts of one row, in order, and its ``file:line``."""

    origin: str
    texts: list[RowText]


def read_row_texts(source: Path | str | DataSource, problems: Problems) -> Iterator[RowTexts]:
    """Yield the texts of each row of a source; of plain text, those of its documents.

    Raises:
        DataError: if there is nothing to read.
    """
    for place in places_of(as_source(source)):
        yield from _texts_of_place(place, problems)


def read_evaluation_texts(path: Path, problems: Problems) -> Iterator[RowTexts]:
    """Yield the texts of each row of a file, or of every file in a folder, whatever its part.

    Raises:
        DataError: if there is nothing to read.
    """
    if not path.is_dir():
        yield from read_row_texts(path, problems)
        return
    for file in sorted(file for file in path.rglob("*") if file.is_file() and is_data_file(file)):
        yield from _texts_of_place(Place(file), problems)


def texts_in(value: Any, key: str = "") -> Iterator[RowText]:
    """Yield every text in a value, in order, but for those that only name or number something."""
    if isinstance(value, str):
        if value.strip():
            yield RowText(key, value)
    elif isinstance(value, dict):
        for name, one in value.items():
            if name not in NO_TEXTS:
                yield from texts_in(one, str(name))
    elif isinstance(value, list):
        for one in value:
            yield from texts_in(one, key)


def _texts_of_place(place: Place, problems: Problems) -> Iterator[RowTexts]:
    try:
        if place.on_hub or not _is_without_header(place.path):
            for origin, row in rows_of(place, problems):
                yield RowTexts(origin, list(texts_in(row)))
        elif names_rows(place.path):
            for number, cells in enumerate_records(place.path, problems, ","):
                yield RowTexts(f"{place.path}:{number}", list(texts_in(cells)))
        else:
            for document in read_corpus(DataSource(path=str(place.path), format=TEXT)):
                yield RowTexts(document.origin, [RowText(TEXT, document.text)])
    except DataError as error:
        problems.append(str(error))


def _is_without_header(path: Path) -> bool:
    """Return whether a file is plain text or a table whose columns have no names."""
    return content_of(path) == Content.PLAIN and header_of(path) is None

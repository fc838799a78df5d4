"""Corpora: documents from text files, rows or a folder of them, and a held-out split.

Text files. A form feed, or a line that holds only ``<|endoftext|>``, ends a document. In a file
without these marks, paragraphs (parted by blank lines) are gathered greedily into documents of up
to `TARGET_CHARS` characters, so that neighbours stay together; a longer paragraph is parted between
its lines, and a line is never cut.

Rows (every form of `danlu/data/reading/rows.py`; a table only if it has the column). A text; an
object with the text under `text_key`; or an object without that key but with ``lines``, a list of
texts, which are joined by line ends under the ``title``, if there is one.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from danlu.config.data import DataSource
from danlu.data.examples import Document
from danlu.data.mixing.holding_out import draw, held_out_limit
from danlu.data.reading.locating import EXTENSIONS, Place, as_source, places_of
from danlu.data.reading.opening import Content, content_of, read_lines
from danlu.data.reading.problems import Problems, raise_problems
from danlu.data.reading.rows import names_rows, rows_of
from danlu.data.reading.table_rows import header_of
from danlu.errors import ConfigError, DataError

__all__ = ["EXTENSIONS", "Document", "held_out_split", "read_corpus"]

TARGET_CHARS = 2000
END_OF_DOCUMENT = "<|endoftext|>"
TEXT = "text"  # the format that reads any file as plain text


def read_corpus(source: Path | str | DataSource, text_key: str | None = None) -> Iterator[Document]:
    """Yield the documents of a source, a folder's files in sorted order, sub-folders included.

    Args:
        source: a file, a folder, `FILE:PART`, ``hub:OWNER/NAME``, or a `DataSource`; its `format`
            may be ``text``, for files of plain text that look like something else.
        text_key: where an object row has its text; None for what the source says.

    Raises:
        DataError: at once if there is nothing to read; at the end of the documents if a file is not
            UTF-8, a row is malformed or has no text, or a file is empty. All problems of all files
            are listed together.
        ConfigError: if `format` is another one.
    """
    source = as_source(source)
    if source.format not in (None, TEXT):
        raise ConfigError(
            f"format {source.format!r} is not for a corpus; expected {TEXT!r} or nothing."
        )
    return _read_places(places_of(source), source, text_key or source.text_key)


def _read_places(places: list[Place], source: DataSource, text_key: str) -> Iterator[Document]:
    problems = Problems()
    for place in places:
        known, empty = len(problems), True
        try:
            for document in _read_place(place, source.format == TEXT, text_key, problems):
                empty = False
                yield document
        except DataError as error:
            problems.append(str(error))
        if empty and len(problems) == known:
            problems.append(f"{place.path}: the file is empty")
    expected = (
        f"Expected UTF-8 text, or rows with a text under {text_key!r}. Fix or remove what is "
        f"listed; format: {TEXT} reads a file as plain text, whatever it looks like."
    )
    raise_problems(problems, source.path, expected)


def _read_place(
    place: Place, as_text: bool, text_key: str, problems: Problems
) -> Iterator[Document]:
    if not place.on_hub and (as_text or _is_plain(place.path, text_key)):
        return _text_documents(place.path, problems)
    return _row_documents(place, text_key, problems)


def _is_plain(path: Path, text_key: str) -> bool:
    """Return whether a file is plain text; neither named nor written as rows."""
    if content_of(path) != Content.PLAIN or names_rows(path):
        return False
    header = header_of(path)
    return header is None or text_key not in header[0]


# ---------------------------------------------------------------- text files


def _text_documents(file: Path, problems: Problems) -> Iterator[Document]:
    parted = _marked_parts if _has_marks(read_lines(file, Problems())) else _gathered_parts
    for number, text in parted(read_lines(file, problems)):
        yield Document(text, f"{file}:{number}")


def _has_marks(lines: Iterable[tuple[int, str]]) -> bool:
    """Return whether a mark parts the text, with something on both its sides."""
    before = filled = False
    for _, line in lines:
        first, *rest = _pieces(line)
        filled = filled or bool(first.strip())
        for piece in rest:
            before, filled = before or filled, bool(piece.strip())
        if before and filled:
            return True
    return False


def _pieces(line: str) -> list[str]:
    return ["", ""] if line.strip() == END_OF_DOCUMENT else line.split("\f")


def _marked_parts(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the documents between form feeds and end-of-document lines; one if there is no mark."""
    open_lines: list[tuple[int, str]] = []
    for number, line in lines:
        first, *rest = _pieces(line)
        open_lines.append((number, first))
        for piece in rest:
            yield from _joined(open_lines)
            open_lines = [(number, piece)]
    yield from _joined(open_lines)


def _gathered_parts(lines: Iterable[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield neighbouring paragraphs, or lines of a long one, up to `TARGET_CHARS` together."""
    gathered: list[tuple[int, str]] = []
    size = 0
    for block in _blocks(lines):
        block_size = sum(len(line) + 1 for _, line in block)
        if size and size + block_size > TARGET_CHARS:
            yield from _joined(gathered)
            gathered, size = [], 0
        gathered.extend(block)
        size += block_size
    yield from _joined(gathered)


def _blocks(lines: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    """Yield what stays together: a paragraph with the blank lines after it, or one long line."""
    block: list[tuple[int, str]] = []
    size = 0
    ended = False
    for number, line in lines:
        blank = not line.strip()
        too_long = size + len(line) > TARGET_CHARS
        if block and not blank and (ended or too_long):
            yield block
            block, size = [], 0
        block.append((number, line))
        size += len(line) + 1
        ended = blank
    if block:
        yield block


def _joined(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield (first line number, text) without the blank lines around it; nothing if all blank."""
    filled = [at for at, (_, line) in enumerate(lines) if line.strip()]
    if filled:
        inner = lines[filled[0] : filled[-1] + 1]
        yield inner[0][0], "\n".join(line for _, line in inner)


# ---------------------------------------------------------------- rows


def _row_documents(place: Place, text_key: str, problems: Problems) -> Iterator[Document]:
    for origin, row in rows_of(place, problems, (text_key, "lines")):
        text = _row_text(row, text_key)
        if text is None:
            problems.append(f"{origin}: no text under {text_key!r}, and no 'lines'; {_shape(row)}")
        elif not text.strip():
            problems.append(f"{origin}: the text is empty")
        else:
            yield Document(text, origin)


def _row_text(row: object, text_key: str) -> str | None:
    if isinstance(row, str):
        return row
    if not isinstance(row, dict):
        return None
    if text_key in row:
        return row[text_key] if isinstance(row[text_key], str) else None
    lines = row.get("lines")
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        return None
    title = [row["title"]] if isinstance(row.get("title"), str) and row["title"] else []
    return "\n".join(title + lines)


def _shape(row: object) -> str:
    if isinstance(row, dict):
        return f"its keys are {sorted(row)}"
    return f"the row is a {type(row).__name__}"


# ---------------------------------------------------------------- held-out split


def held_out_split(
    documents: Iterable[Document], fraction: float, seed: int
) -> tuple[list[Document], list[Document]]:
    """Part the documents into (training, held out), each in the given order.

    The side depends on the text and the seed alone: equal texts stay together and a document keeps
    its side when others come or go. Neither side is left empty.

    Args:
        documents: the whole corpus.
        fraction: about which share of the documents to hold out, in (0, 1).
        seed: another seed draws another share.

    Raises:
        DataError: if `fraction` is out of range, or fewer than two different texts are given.
    """
    drawn = [(draw(document.text, seed), document) for document in documents]
    limit = held_out_limit((each for each, _ in drawn), fraction)
    train = [document for each, document in drawn if each >= limit]
    return train, [document for each, document in drawn if each < limit]

"""Corpora: documents from text files, JSON rows or a folder of them, and a held-out split.

Text files. A form feed, or a line that holds only ``<|endoftext|>``, ends a document. In a file
without these marks, paragraphs (parted by blank lines) are gathered greedily into documents of up
to `TARGET_CHARS` characters, so that neighbours stay together; a longer paragraph is parted between
its lines, and a line is never cut.

JSON rows (`.jsonl`, or a list in `.json`). A text; an object with the text under `text_key`; or an
object without that key but with ``lines``, a list of texts, which are joined by line ends under the
``title``, if there is one.
"""

import hashlib
import logging
from collections.abc import Iterable, Iterator
from pathlib import Path

from danlu.data.examples import Document
from danlu.data.rows import Problems, raise_problems, read_lines, read_rows
from danlu.errors import DataError

__all__ = ["Document", "held_out_split", "read_corpus"]

TARGET_CHARS = 2000
END_OF_DOCUMENT = "<|endoftext|>"
EXTENSIONS = (".json", ".jsonl", ".txt")

_log = logging.getLogger(__name__)


def read_corpus(path: Path | str, text_key: str = "text") -> Iterator[Document]:
    """Yield the documents of a file, or of a folder's files in sorted order, sub-folders included.

    Files of a folder with another extension are named in one log message.

    Args:
        path: a `.txt`, `.jsonl` or `.json` file, or a folder of them.
        text_key: where an object row has its text.

    Raises:
        DataError: at once if there is no such file or nothing to read in the folder; at the end of
            the documents if a file is not UTF-8, a row is malformed or has no text, or a file is
            empty. All problems of all files are listed together.
    """
    path = Path(path)
    return _read_files(_corpus_files(path), path, text_key)


def _corpus_files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix not in EXTENSIONS:
            raise DataError(
                f"'{path}' has the extension {path.suffix!r}; expected one of "
                f"{', '.join(EXTENSIONS)}. Convert or rename the file."
            )
        return [path]
    if not path.is_dir():
        raise DataError(f"There is no corpus at '{path}'; expected a file or a folder.")
    files = sorted(file for file in path.rglob("*") if file.is_file())
    _note_skipped([file for file in files if file.suffix not in EXTENSIONS], path)
    known = [file for file in files if file.suffix in EXTENSIONS]
    if not known:
        raise DataError(
            f"The folder '{path}' has no corpus file; expected files ending in "
            f"{', '.join(EXTENSIONS)}."
        )
    return known


def _note_skipped(files: list[Path], folder: Path) -> None:
    if files:
        names = ", ".join(str(file.relative_to(folder)) for file in files[:20])
        more = f" (+{len(files) - 20} more)" if len(files) > 20 else ""
        _log.warning(
            "Not read in '%s', since only %s are: %s%s",
            folder,
            ", ".join(EXTENSIONS),
            names,
            more,
        )


def _read_files(files: list[Path], path: Path, text_key: str) -> Iterator[Document]:
    problems: Problems = []
    for file in files:
        known_problems, empty = len(problems), True
        for document in _read_file(file, text_key, problems):
            empty = False
            yield document
        if empty and len(problems) == known_problems:
            problems.append(f"{file}: the file is empty")
    expected = f"Expected UTF-8 text, or JSON rows with a text under {text_key!r}. "
    raise_problems(problems, path, expected + "Fix or remove what is listed.")


def _read_file(file: Path, text_key: str, problems: Problems) -> Iterator[Document]:
    if file.suffix == ".txt":
        return _text_documents(file, problems)
    return _row_documents(file, text_key, problems)


# ---------------------------------------------------------------- text files


def _text_documents(file: Path, problems: Problems) -> Iterator[Document]:
    lines = list(read_lines(file, problems))
    parts = list(_marked_parts(lines))
    parts = parts if len(parts) > 1 else list(_gathered_parts(lines))
    for number, text in parts:
        yield Document(text, f"{file}:{number}")


def _marked_parts(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
    """Yield the documents between form feeds and end-of-document lines; one if there is no mark."""
    open_lines: list[tuple[int, str]] = []
    for number, line in lines:
        first, *rest = ["", ""] if line.strip() == END_OF_DOCUMENT else line.split("\f")
        open_lines.append((number, first))
        for piece in rest:
            yield from _joined(open_lines)
            open_lines = [(number, piece)]
    yield from _joined(open_lines)


def _gathered_parts(lines: list[tuple[int, str]]) -> Iterator[tuple[int, str]]:
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


def _blocks(lines: list[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
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


# ---------------------------------------------------------------- JSON rows


def _row_documents(file: Path, text_key: str, problems: Problems) -> Iterator[Document]:
    for origin, row in read_rows(file, problems):
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
    if not 0.0 < fraction < 1.0:
        raise DataError(
            f"The held-out fraction is {fraction}; expected more than 0 and less than 1."
        )
    drawn = [(_draw(document.text, seed), document) for document in documents]
    draws = sorted({draw for draw, _ in drawn})
    if len(draws) < 2:
        raise DataError(
            f"The corpus has {len(draws)} different documents; expected at least 2, to train on "
            "some and hold out others. Give more text, or separate held-out text."
        )
    limit = min(max(fraction, draws[1]), draws[-1])  # holds out the first, never the last
    train = [document for draw, document in drawn if draw >= limit]
    return train, [document for draw, document in drawn if draw < limit]


def _draw(text: str, seed: int) -> float:
    """Return a number in [0, 1) fixed by text and seed."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48

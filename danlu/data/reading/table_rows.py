"""Rows of tables: CSV and TSV with a header, Parquet through pyarrow, the hub through datasets."""

import csv
import importlib
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from danlu.data.reading.opening import NOT_UTF8, decoded_lines, seekable
from danlu.data.reading.problems import Problems
from danlu.errors import DataError, MissingExtraError

EXTRA = "data"
DELIMITERS = (",", "\t", ";")
TABLES = {".csv": ",", ".tsv": "\t"}
BATCH_ROWS = 1024
HUB = "hub:"
_COLUMN = re.compile(r"[^\W\d]\w*(?:[ .-]\w+){0,2}")  # prose with a comma has longer parts


def header_of(path: Path) -> tuple[list[str], str] | None:
    """Return the column names and the delimiter of a table; None if the first line is no header.

    A header has two columns or more, or the file is called a table; the first may have no name, as
    an index that pandas wrote.
    """
    _, first = next(decoded_lines(path, Problems()), (1, ""))
    called = [TABLES[ending] for ending in path.suffixes if ending in TABLES]
    delimiter = max([*called, *DELIMITERS], key=first.count)
    try:
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    except csv.Error:  # such as a carriage return inside: no text, let alone a table
        return None
    named = [name for name in names if _COLUMN.fullmatch(name)]
    is_header = len(names) > 1 and names[int(not names[0]) :] == named
    is_header = is_header or (bool(called) and len(names) == len(named) == 1)
    return (names, delimiter) if is_header else None


def table_rows(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yield (``file:line``, {column: text}) for each record of a table with a header.

    Every column must have its own name, and every record as many cells as the header.
    """
    header = header_of(path)
    if header is None or len(set(header[0])) < len(header[0]):
        what = "two columns have one name" if header else "the first line names no columns"
        problems.append(f"{path}:1: neither JSON nor a table with a header: {what}")
        return
    names, delimiter = header
    number, known = 1, len(problems)
    for number, cells in enumerate_records(path, problems, delimiter):
        if len(cells) != len(names):
            problems.append(f"{path}:{number}: {len(cells)} cells, but {len(names)} columns")
        elif number > 1:
            yield f"{path}:{number}", {n: cell for n, cell in zip(names, cells, strict=True) if n}
    if number == 1 and len(problems) == known:
        problems.append(f"{path}: no row after the header {', '.join(names)}")


def enumerate_records(
    path: Path, problems: Problems, delimiter: str
) -> Iterator[tuple[int, list[str]]]:
    """Yield (line where it begins, cells) for each record of a table, the header included.

    Raises the largest cell that Python's csv module takes, for the whole process.
    """
    csv.field_size_limit(sys.maxsize)
    lines = (line for _, line in decoded_lines(path, problems))
    reader = csv.reader(lines, delimiter=delimiter, strict=True)
    begin = 1
    try:
        for cells in reader:
            if cells and not any(NOT_UTF8.search(cell) for cell in cells):
                yield begin, cells
            begin = reader.line_num + 1
    except csv.Error as error:
        problems.append(f"{path}:{begin}: not CSV: {error}")


def parquet_rows(path: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yield (``file:row``, row) for each row of a Parquet file, without its nulls.

    Raises:
        MissingExtraError: if pyarrow is not installed.
    """
    parquet: Any = _extra("pyarrow.parquet", "pyarrow")
    arrow: Any = _extra("pyarrow", "pyarrow")
    with seekable(path) as handle:
        try:
            batches = parquet.ParquetFile(handle).iter_batches(batch_size=BATCH_ROWS)
            rows: Iterable[Any] = (row for batch in batches for row in batch.to_pylist())
            for number, row in enumerate(rows, start=1):
                yield f"{path}:{number}", without_nulls(row)
        except (arrow.ArrowException, OSError) as error:
            problems.append(f"{path}: not a whole Parquet file: {error}")


def hub_rows(name: str, split: str, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yield (``hub:name:row``, row) for each row of a data set of the hub, read as a stream.

    Args:
        name: `owner/name`, or `owner/name/subset`.
        split: which part of it.
        problems: gets what goes wrong on the way.

    Raises:
        MissingExtraError: if datasets is not installed.
        DataError: if it is not there, or there is no connection.
    """
    library: Any = _extra("datasets", "datasets")
    owner, *rest = name.split("/")
    try:
        repository, subset = "/".join([owner, *rest[:1]]), "/".join(rest[1:]) or None
        rows = library.load_dataset(repository, subset, split=split, streaming=True)
        for number, row in enumerate(rows, start=1):
            yield f"{HUB}{name}:{number}", without_nulls(row)
    except (OSError, ValueError, library.exceptions.DatasetsError) as error:
        raise DataError(
            f"The data set '{HUB}{name}' cannot be read: {error}. Expected owner/name or "
            f"owner/name/subset with the split {split!r}, and a connection. Or download it, and "
            "give the folder."
        ) from error


def without_nulls(value: Any) -> Any:
    """Return the value without the nulls that columns of objects fill absent fields with."""
    if isinstance(value, dict):
        return {key: without_nulls(one) for key, one in value.items() if one is not None}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [without_nulls(one) for one in value]
    return value


def _extra(module: str, package: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(package, EXTRA) from error

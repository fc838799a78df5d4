"""The files that a source of rows is made of, with their hashes."""

from functools import lru_cache
from pathlib import Path
from typing import Any

from danlu.config.data import DataSource
from danlu.data.encoded.store import MANIFEST, file_sha256
from danlu.data.reading.locating import data_files
from danlu.errors import DataError


def source_files(source: DataSource) -> list[Path]:
    """Return the files that a source is read from; of a store its manifest, which knows the others.

    A data set of the hub has none, and neither has what does not exist: whoever reads it says so.
    """
    manifest = Path(source.path) / MANIFEST
    if manifest.is_file():
        return [manifest]
    try:
        return data_files(source)
    except DataError:
        return []


def described(file: Path) -> dict[str, Any]:
    """Return path, size and hash of a file."""
    status = file.stat()
    return {
        "path": str(file),
        "bytes": status.st_size,
        "sha256": _hash(str(file.absolute()), status.st_size, status.st_mtime_ns),
    }


@lru_cache(maxsize=4096)
def _hash(path: str, size: int, changed_ns: int) -> str:
    """Return the hash of a file; size and time of change tell whether it was hashed before."""
    return file_sha256(Path(path))

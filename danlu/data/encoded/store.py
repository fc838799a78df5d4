"""A store: rows of arrays in a folder, read through memory maps; nothing is held in memory.

    store.json        columns with their dtypes, number of rows, what it was made of, checksums
    ids.bin           the values of the column `ids`, row after row
    ids.ends.bin      per row, how many values it and those before it have (int64)
    origins.bin       where each row comes from, as UTF-8; origins.ends.bin likewise
    draws.bin         per row, a number in [0, 1) that its content decides (float64)

Encoded conversations, preference pairs and corpora for pre-training are all kept like this.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from danlu.data.ledger import Ledger
from danlu.errors import DataError
from danlu.files import parse_json

FORMAT = 1
MANIFEST = "store.json"
ORIGINS, DRAWS = "origins", "draws"
ENDS_DTYPE, DRAWS_DTYPE = "<i8", "<f8"

Array = NDArray[Any]


@dataclass(frozen=True)
class Encoded:
    """What one example became.

    Attributes:
        origin: where it comes from, as ``file:line``.
        arrays: an array for each column of the encoder; None: the example is dropped.
        note: why it was shortened or dropped; "" if it went through whole.
        draw: a number in [0, 1) that its content decides, for splitting; 0 where nobody splits.
    """

    origin: str
    arrays: tuple[Array, ...] | None
    note: str = ""
    draw: float = 0.0


@dataclass
class Fate:
    """What became of the examples: how many went through whole, and the others.

    Attributes:
        kept: examples that went through whole.
        truncated, dropped: (origin, reason, draw) of each other one.
    """

    kept: int = 0
    truncated: list[tuple[str, str, float]] = field(default_factory=list)
    dropped: list[tuple[str, str, float]] = field(default_factory=list)

    def note(self, encoded: Encoded) -> None:
        """Count one example."""
        entry = (encoded.origin, encoded.note, encoded.draw)
        if encoded.arrays is None:
            self.dropped.append(entry)
        elif encoded.note:
            self.truncated.append(entry)
        else:
            self.kept += 1

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"kept": self.kept, "truncated": self.truncated, "dropped": self.dropped}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> "Fate":
        """Return what `as_json` returned."""
        lists = {key: [tuple(entry) for entry in value[key]] for key in ("truncated", "dropped")}
        return cls(value["kept"], **lists)

    def ledger(self) -> Ledger:
        """Return the same as a ledger."""
        ledger = Ledger(kept=self.kept)
        for origin, reason, _ in self.truncated:
            ledger.truncate(origin, reason)
        for origin, reason, _ in self.dropped:
            ledger.drop(origin, reason)
        return ledger


class ArrayStore:
    """The rows of a store.

    Attributes:
        folder: where it is.
        columns: name -> dtype of the values.
        about: what the writer noted: sources, tokenizer, versions.
        fate: what became of the examples it was made of.

    Raises:
        DataError: if the folder is no store, or is damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        manifest = read_manifest(folder)
        self.columns: dict[str, str] = manifest["columns"]
        self.about: dict[str, Any] = manifest["about"]
        self.fate = Fate.from_json(manifest["fate"])
        self._num_rows: int = manifest["rows"]
        self._values = {name: self._map(name, dtype) for name, dtype in self.columns.items()}
        self._ends = {name: self._map(f"{name}.ends", ENDS_DTYPE) for name in self.columns}
        self._origins = self._map(ORIGINS, "u1")
        self._origin_ends = self._map(f"{ORIGINS}.ends", ENDS_DTYPE)
        self.draws: NDArray[np.float64] = self._map(DRAWS, DRAWS_DTYPE)

    def __len__(self) -> int:
        return self._num_rows

    def array(self, name: str, row: int) -> Array:
        """Return the values of a column in a row, as a view of the file."""
        return _part(self._values[name], self._ends[name], row)

    def column(self, name: str) -> Array:
        """Return the values of a column in all rows, one row after the other."""
        return self._values[name]

    def lengths(self, name: str) -> NDArray[np.int64]:
        """Return how many values each row has in a column."""
        return np.diff(self._ends[name], prepend=0)

    def origin(self, row: int) -> str:
        """Return where a row comes from, as ``file:line``."""
        return _part(self._origins, self._origin_ends, row).tobytes().decode()

    def _map(self, name: str, dtype: str) -> Array:
        path = self.folder / f"{name}.bin"
        if path.stat().st_size == 0:
            return np.empty(0, dtype)
        return np.memmap(path, dtype, mode="r")


def _part(values: Array, ends: Array, row: int) -> Array:
    start = int(ends[row - 1]) if row else 0
    return values[start : int(ends[row])]


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a store, once the files have the sizes that it tells.

    Raises:
        DataError: if the folder is no store, or a file is missing or has another size.
    """
    path = folder / MANIFEST
    try:
        manifest: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        sizes = {name: file["bytes"] for name, file in manifest["files"].items()}
        known = manifest["format"] == FORMAT
        problems = [name for name, size in sizes.items() if _size(folder / name) != size]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _damaged(folder, f"{MANIFEST}: {error!r}") from None
    if not known or problems:
        raise _damaged(folder, ", ".join(problems) or f"{MANIFEST} has another format")
    return manifest


def verify(folder: Path) -> None:
    """Compare every file of a store with its checksum.

    Raises:
        DataError: naming the files that differ.
    """
    files = read_manifest(folder)["files"]
    wrong = [n for n, known in files.items() if file_sha256(folder / n) != known["sha256"]]
    if wrong:
        raise _damaged(folder, ", ".join(wrong))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else -1


def _damaged(folder: Path, what: str) -> DataError:
    return DataError(
        f"'{folder}' is no whole store of encoded data ({what}). Expected the files that "
        f"{MANIFEST} names, as they were written. Remove the folder and make it again."
    )

"""Writing a store, row by row, so that a killed writer goes on where it stopped.

The files grow in a hidden neighbour of the folder. Every so often they are flushed and
`progress.json` tells how long they were and how many examples they are made of; who starts again
with the same key cuts the files back to that and skips those examples.
"""

import json
import os
import shutil
import time
from array import array
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import numpy as np

from danlu.data.encoded.store import (
    DRAWS,
    FORMAT,
    MANIFEST,
    ORIGINS,
    Array,
    Encoded,
    Fate,
    file_sha256,
)
from danlu.files import PARTIAL, finish_folder, output_errors, write_json

_PROGRESS = "progress.json"
_SECONDS_BETWEEN_NOTES = 5.0


class StoreWriter:
    """A store that is being written. Used as a context; leaving it closes the files.

    Attributes:
        examples: how many examples it has taken, those of an earlier, killed writer among them.
        rows: how many of these became rows.
        fate: what became of each example.

    Args:
        folder: where the store will be; its neighbour ``.NAME.partial`` is used meanwhile.
        columns: name -> dtype of the values.
        key: what the store is made of; what was written for another key is thrown away.
        seconds: between two notes of how far it is.

    Raises:
        OutputError: if the files cannot be written.
    """

    def __init__(
        self,
        folder: Path,
        columns: Mapping[str, str],
        key: str,
        seconds: float = _SECONDS_BETWEEN_NOTES,
    ) -> None:
        self.folder = folder
        self.columns = dict(columns)
        self.examples, self.fate = 0, Fate()
        self._key = key
        self._seconds = seconds
        self._partial = folder.with_name(f".{folder.name}{PARTIAL}")
        self._names = [*self.columns, ORIGINS]
        self._dtypes = [np.dtype(dtype) for dtype in self.columns.values()]
        with output_errors(folder):
            sizes = self._take_over()
            self._files = {name: self._open(name, sizes) for name in self._file_names()}
        self._ends = [self._length(name) for name in self._names]
        self._noted = time.monotonic()

    @property
    def rows(self) -> int:
        """How many rows the store has so far."""
        return self.fate.kept + len(self.fate.truncated)

    def __enter__(self) -> "StoreWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            with suppress(OSError):  # of a full disk, which was said; `finish` closes them itself
                file.close()

    def append(self, encoded: Encoded) -> None:
        """Take one example; only one with arrays becomes a row."""
        with output_errors(self.folder):
            if encoded.arrays is not None:
                self._write_row(encoded, encoded.arrays)
            self.fate.note(encoded)
            self.examples += 1
            if time.monotonic() - self._noted >= self._seconds:
                self._note()

    def finish(self, about: Mapping[str, Any]) -> None:
        """Complete the store and put it in its place as a whole."""
        with output_errors(self.folder):
            for file in self._files.values():
                file.close()
            (self._partial / _PROGRESS).unlink(missing_ok=True)
            files = sorted(self._partial.glob("*.bin"))
            manifest = {
                "format": FORMAT,
                "rows": self.rows,
                "columns": self.columns,
                "about": dict(about),
                "fate": self.fate.as_json(),
                "files": {
                    file.name: {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
                    for file in files
                },
            }
            write_json(self._partial / MANIFEST, manifest)
            finish_folder(self._partial, self.folder)

    def discard(self) -> None:
        """Remove what was written."""
        shutil.rmtree(self._partial, ignore_errors=True)

    def _write_row(self, encoded: Encoded, arrays: tuple[Array, ...]) -> None:
        typed = zip(arrays, self._dtypes, strict=True)
        parts: list[Array] = [np.ascontiguousarray(values, dtype) for values, dtype in typed]
        parts.append(np.frombuffer(encoded.origin.encode("utf-8", "replace"), np.uint8))
        for number, (name, part) in enumerate(zip(self._names, parts, strict=True)):
            self._ends[number] += len(part)
            self._files[name].write(part.data)
            self._files[f"{name}.ends"].write(array("q", [self._ends[number]]))
        self._files[DRAWS].write(array("d", [encoded.draw]))

    def _file_names(self) -> list[str]:
        return [*self._names, *(f"{name}.ends" for name in self._names), DRAWS]

    def _take_over(self) -> dict[str, int]:
        """Return the sizes of the files that a killed writer left; {} to begin anew."""
        try:
            known = json.loads((self._partial / _PROGRESS).read_text(encoding="utf-8"))
            sizes: dict[str, int] = known["sizes"]
            fate = Fate.from_json(known["fate"])
            usable = known["key"] == self._key and set(sizes) == set(self._file_names())
            short = [n for n, s in sizes.items() if self._path(n).stat().st_size < s]
        except (OSError, ValueError, KeyError, TypeError):
            usable = False
        if not usable or short:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._partial.mkdir(parents=True)
            return {}
        self.examples, self.fate = known["examples"], fate
        return sizes

    def _open(self, name: str, sizes: Mapping[str, int]) -> BinaryIO:
        file = self._path(name).open("ab")
        file.truncate(sizes.get(name, 0))
        file.seek(0, 2)
        return file

    def _path(self, name: str) -> Path:
        return self._partial / f"{name}.bin"

    def _length(self, name: str) -> int:
        """Return how many values a column has so far."""
        dtype = np.dtype(self.columns.get(name, "u1"))
        return self._files[name].tell() // dtype.itemsize

    def _note(self) -> None:
        """Put everything on the disk, then tell how far it is."""
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {name: file.tell() for name, file in self._files.items()}
        note = {
            "key": self._key,
            "examples": self.examples,
            "sizes": sizes,
            "fate": self.fate.as_json(),
        }
        write_json(self._partial / _PROGRESS, note)
        self._noted = time.monotonic()

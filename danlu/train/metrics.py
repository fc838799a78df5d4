"""metrics.jsonl and samples.jsonl: lines that each belong to a step, which come once."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from danlu.files import output_errors, write_text

Record = dict[str, int | float]
TIME_FIELDS = ("tokens_per_s", "elapsed_s")  # all that may differ between equal runs


class StepLog:
    """Appends lines to a file that ends, when it is opened, at a resumed step.

    Args:
        path: the file; made if missing.
        step: lines of later steps, and a torn last line, are removed.
    """

    def __init__(self, path: Path, step: int) -> None:
        self._path = path
        kept = [record for record in read_metrics(path) if record["step"] <= step]
        write_text(path, "".join(map(_line, kept)))
        with output_errors(path):
            self._file: IO[str] = path.open("a", encoding="utf-8")

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line, with the ``step`` it belongs to; a reader sees it at once."""
        with output_errors(self._path):
            self._file.write(_line(record))
            self._file.flush()

    def sync(self) -> None:
        """Return when all lines are on the disk."""
        with output_errors(self._path):
            os.fsync(self._file.fileno())

    def __enter__(self) -> Self:
        """Return the log itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close the file."""
        with output_errors(self._path):
            self._file.close()


def read_metrics(path: Path) -> list[Record]:
    """Return the records of a metrics file, without a torn last line; none if there is no file."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")[:-1]
    return [json.loads(line) for line in lines]


def resident_bytes() -> int:
    """Return the memory of this process that is in RAM now (its peak where that is unknown)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return peak_bytes()
    return pages * os.sysconf("SC_PAGE_SIZE")


def peak_bytes() -> int:
    """Return the most memory that this process ever had in RAM."""
    import resource  # not on every platform

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _line(record: Mapping[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"

"""What is wrong with the files of a source: gathered while reading, said at once at the end."""

from collections.abc import Iterator
from pathlib import Path

from danlu.errors import DataError, bullet_list

KEPT = 20


class Problems:
    """Problems in order; all are counted, the first `KEPT` are kept in words."""

    def __init__(self) -> None:
        self._kept: list[str] = []
        self._count = 0

    def append(self, problem: str) -> None:
        """Add one, a line that begins with ``file:line``."""
        self._count += 1
        if len(self._kept) < KEPT:
            self._kept.append(problem)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[str]:
        return iter(self._kept)


def raise_problems(problems: Problems, path: Path | str, expected: str) -> None:
    """Raise one `DataError` that lists the problems found in `path`; nothing if there are none.

    Args:
        problems: those found.
        path: the file or folder that was read.
        expected: what a good row looks like, and how to fix a bad one.
    """
    if len(problems):
        count = f"{len(problems)} problem" + ("s" if len(problems) > 1 else "")
        more = f"\n  (+{len(problems) - KEPT} more)" if len(problems) > KEPT else ""
        raise DataError(
            f"{count} in '{path}':{bullet_list(list(problems), KEPT)}{more}\n{expected}"
        )

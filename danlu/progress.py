"""What long work says about itself while it runs; the terminal decides how it looks.

Library code takes a `Progress` and reports to it. The default says nothing; `danlu.cli` shows a bar
with speed and ETA, and tests record the calls.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol


class Progress(Protocol):
    """A line of work with a known or unknown length."""

    def start(self, what: str, total: int | None) -> None:
        """Begin work of `total` units (None: unknown)."""

    def advance(self, done: int, note: str = "") -> None:
        """Say that `done` more units are finished; `note` is a short live remark."""

    def finish(self) -> None:
        """End the work begun last."""


class Silent:
    """The progress that nobody watches."""

    def start(self, what: str, total: int | None) -> None:
        """Do nothing."""

    def advance(self, done: int, note: str = "") -> None:
        """Do nothing."""

    def finish(self) -> None:
        """Do nothing."""


@contextmanager
def working(progress: Progress, what: str, total: int | None) -> Iterator[Progress]:
    """Start `what` on `progress` and finish it however the block ends."""
    progress.start(what, total)
    try:
        yield progress
    finally:
        progress.finish()

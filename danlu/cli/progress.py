"""Progress on a terminal (a bar) and anywhere else (a plain line every few seconds)."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.progress import Progress as RichProgress
from rich.table import Column

from danlu.cli.terminal import remarks
from danlu.progress import Progress

SECONDS_BETWEEN_LINES = 5.0
_NAME_WIDTH = 12


@contextmanager
def shown_progress() -> Iterator[Progress]:
    """Yield the progress that suits where stderr goes; the screen is tidy again at the end."""
    console = remarks()
    if not console.is_terminal:
        yield Lines(console)
        return
    bars = Bars(console)
    try:
        yield bars
    finally:
        bars.close()


class Bars:
    """A bar for each work under way, with percent, a live note, elapsed time and ETA.

    A work's bar goes away when it is finished: what stays on the screen are results.
    """

    def __init__(self, console: Console) -> None:
        self._screen = RichProgress(
            TextColumn("{task.description}", table_column=Column(min_width=_NAME_WIDTH)),
            BarColumn(bar_width=16, table_column=Column(min_width=8)),
            TaskProgressColumn(table_column=Column(min_width=4)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("[dim]ETA[/]", table_column=Column(min_width=3)),
            TimeRemainingColumn(compact=True, table_column=Column(min_width=5)),
            TextColumn(
                "[dim]{task.fields[note]}[/]",
                table_column=Column(no_wrap=True, overflow="ellipsis"),
            ),
            console=console,
            transient=True,
        )
        self._tasks: list[TaskID] = []

    def start(self, what: str, total: int | None) -> None:
        """Show a bar for `what`, below those already shown."""
        name = escape(what.ljust(_NAME_WIDTH))
        if not self._tasks:
            self._screen.start()
        self._tasks.append(self._screen.add_task(name, total=total, note=""))

    def advance(self, done: int, note: str = "") -> None:
        """Move the newest bar; an empty note keeps the one before."""
        fields = {"note": escape(note)} if note else {}
        self._screen.update(self._tasks[-1], advance=done, **fields)  # type: ignore[arg-type]

    def finish(self) -> None:
        """Take the newest bar away."""
        self._screen.remove_task(self._tasks.pop())
        if not self._tasks:
            self._screen.stop()

    def close(self) -> None:
        """Take all bars away, also those whose work broke off."""
        while self._tasks:
            self.finish()


@dataclass
class _Work:
    what: str
    total: int | None
    started: float
    last_line: float
    done: int = 0


class Lines:
    """A line every few seconds about the newest work, for logs and pipes."""

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self._console = console
        self._clock = clock
        self._works: list[_Work] = []

    def start(self, what: str, total: int | None) -> None:
        """Take note of `what`; short work stays silent."""
        now = self._clock()
        self._works.append(_Work(what, total, now, now))

    def advance(self, done: int, note: str = "") -> None:
        """Print a line if the last one is old enough."""
        work, now = self._works[-1], self._clock()
        work.done += done
        if now - work.last_line >= SECONDS_BETWEEN_LINES:
            work.last_line = now
            parts = [work.what, *_how_far(work, now - work.started), note]
            self._console.print("  ".join(part for part in parts if part), markup=False)

    def finish(self) -> None:
        """Forget the newest work."""
        self._works.pop()


def duration_text(seconds: float) -> str:
    """Return seconds as a person says them: 4.2 s, 2:05 min, 1:02:03 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{seconds:.1f} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    return f"{whole // 3600}:{whole // 60 % 60:02}:{whole % 60:02} h"


def _how_far(work: _Work, elapsed: float) -> list[str]:
    if work.total is None or not work.done:
        return [f"{work.done}", duration_text(elapsed)]
    left = elapsed / work.done * max(work.total - work.done, 0)
    percent = 100 * work.done // max(work.total, 1)
    return [f"{work.done}/{work.total}", f"{percent} %", f"ETA {duration_text(left)}"]

"""What the program writes and where: results to stdout, everything about the work to stderr.

Rich leaves out colours where they are not wanted (NO_COLOR, a pipe, a dumb terminal).
"""

import json
import logging
import sys
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from rich.console import Console
from rich.highlighter import NullHighlighter
from rich.markup import escape
from rich.table import Table
from rich.text import Text

MIN_VALUE_WIDTH = 24


@cache
def results() -> Console:
    """Return the console on stdout: what the user asked for."""
    return Console(highlighter=NullHighlighter(), soft_wrap=True)


@cache
def remarks() -> Console:
    """Return the console on stderr: progress, logs and errors."""
    return Console(stderr=True, highlighter=NullHighlighter(), soft_wrap=True)


def complain(details: str, message: str) -> None:
    """Write an error to stderr, its details (if any) above it."""
    if details:
        remarks().print(details, markup=False)
    name, colon, text = message.partition(": ")
    remarks().print(f"[bold red]{escape(name + colon)}[/]{escape(text)}")


class TerminalHandler(logging.Handler):
    """Writes log records of the library to stderr, one calm line each."""

    _styles = {"WARNING": "yellow", "ERROR": "bold red", "DEBUG": "dim"}  # noqa: RUF012

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        level = "" if record.levelname == "INFO" else f"{record.levelname.lower()}: "
        style = self._styles.get(record.levelname, "none")
        remarks().print(f"{level}{record.getMessage()}", style=style, markup=False)


def print_rows(rows: Iterable[tuple[str, str]], title: str = "", to: Console | None = None) -> None:
    """Print label and value pairs, values aligned under each other; to stdout if not told."""
    console = to or results()
    pairs = list(rows)
    width = max((len(label) for label, _ in pairs), default=0)
    if title:
        console.print(f"[bold]{escape(title)}[/]")
    for label, value in pairs:
        first, *others = _lines(value, width + 4, console)
        console.print(f"  [dim]{escape(label.ljust(width))}[/]  {escape(first)}")
        for line in others:
            console.print(" " * (width + 4) + escape(line))


def _lines(value: str, indent: int, console: Console) -> list[str]:
    """Return a value in lines that fit beside its label; whole where no terminal shows it."""
    if not console.is_terminal or console.width - indent < MIN_VALUE_WIDTH:
        return value.split("\n")
    wrapped = Text(value).wrap(console, console.width - indent)
    return [line.plain.rstrip() for line in wrapped] or [""]


def print_table(
    header: Sequence[str], rows: Iterable[Sequence[str]], title: str = "", *, numbers: bool = True
) -> None:
    """Print a table to stdout: the first column to the left, numbers after it to the right."""
    table = Table(title=title or None, title_justify="left", box=None, pad_edge=False)
    for position, name in enumerate(header):
        table.add_column(name, justify="right" if position and numbers else "left", overflow="fold")
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    results().print(table, soft_wrap=False)


def is_interactive() -> bool:
    """Return whether a person sits at both ends: input and output are a terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def print_json(value: Any) -> None:
    """Print a value as readable JSON to stdout, for other programs."""
    results().print(json.dumps(value, indent=2, ensure_ascii=False), markup=False, highlight=False)

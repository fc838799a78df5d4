"""Parts of a report's page: text in, HTML out, escaped; no file, font or script beside it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from danlu.commands.pages.style import STYLE

Tiles = Sequence[tuple[str, str]]  # (what it is, the number)


@dataclass(frozen=True)
class TableData:
    """A table: the first column is text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def document(title: str, body: str, footer: str, style: str = "") -> str:
    """Return a whole page.

    Args:
        title: of the window.
        body: HTML.
        footer: its last line, as text.
        style: a further style sheet.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{style}</style>\n</head>\n<body>\n<main>\n"
        f"{body}<footer>{escape(footer)} Danlu "
        "(丹炉), the alchemist's furnace.</footer>\n</main>\n</body>\n</html>\n"
    )


def head(title: str, summary: str, tiles: Tiles) -> str:
    """Return the top of a page: its title, a sentence, and the numbers that matter most."""
    shown = "".join(
        f'<div class="tile"><b>{arrows(value)}</b><span>{escape(label)}</span></div>'
        for label, value in tiles
    )
    return (
        '<header><div class="head"><div class="seal" aria-hidden="true">丹</div>'
        f"<div><h1>{escape(title)}</h1><p class='soft'>{escape(summary)}</p></div></div>"
        f'<div class="tiles">{shown}</div></header>\n'
    )


def section(title: str, inner: str, note: str = "") -> str:
    """Return a section, with a remark below its title; nothing if it is empty."""
    if not inner:
        return ""
    said = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{inner}</section>\n"


def table(data: TableData, *, bars: bool = False) -> str:
    """Return a table; with `bars`, shares in percent are underlined as far as they go."""
    if not data.rows:
        return ""
    header = "".join(f"<th>{escape(name)}</th>" for name in data.header)
    rows = "".join(f"<tr>{_cells(row, bars=bars)}</tr>" for row in data.rows)
    body = f"<thead><tr>{header}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="card"><table>{body}</table></div>'


def _cells(row: Sequence[str], *, bars: bool) -> str:
    first, *others = row
    cells = [f"<td>{escape(first)}</td>"]
    for value in others:
        is_share = bars and value.endswith("%")
        look = f' class="bar" style="--share:{value.replace(" ", "")}"' if is_share else ""
        cells.append(f"<td{look}>{escape(value)}</td>")
    return "".join(cells)


def commands(listed: Sequence[tuple[str, str]]) -> str:
    """Return command lines, each below what it does."""
    return "".join(f"<pre><i># {escape(what)}</i>\n{escape(line)}</pre>" for what, line in listed)


def facts(listed: Mapping[str, str]) -> str:
    """Return names with their values."""
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in listed.items())
    return f'<div class="card"><dl class="facts">{rows}</dl></div>'


def arrows(text: str) -> str:
    """Return the text for the page; what a terminal writes as -> is an arrow here."""
    return escape(text.replace("->", "→"))

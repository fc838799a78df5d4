"""The report's HTML: `ReportData` in, one self-contained page out; it knows no tour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from danlu.commands.tour.style import STYLE


@dataclass(frozen=True)
class LifeStep:
    """One step of the tour: its title, its line of proof and how long it took."""

    title: str
    proof: str
    duration: str


@dataclass(frozen=True)
class TableData:
    """A table: the first column is text, the others numbers."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


@dataclass(frozen=True)
class Sample:
    """One held-out instruction and two answers to it."""

    prompt: str
    expected: str
    before: str
    after: str
    before_is_right: bool
    after_is_right: bool


@dataclass(frozen=True)
class ReportData:
    """Everything that the page shows."""

    summary: str
    tiles: Sequence[tuple[str, str]]
    life: Sequence[LifeStep]
    charts: Sequence[tuple[str, str]]
    tokenizer: TableData
    models: TableData
    models_note: str
    kinds: TableData
    samples: Sequence[Sample]
    commands: Sequence[tuple[str, str]]
    facts: Mapping[str, str]


def render(data: ReportData) -> str:
    """Return the page."""
    body = "".join(
        (
            _head(data),
            _section("Its life", _life(data.life)),
            _section("How it learned", _charts(data.charts)),
            _section(
                "What it reads",
                _table(data.tokenizer),
                "Average tokens per document: fewer tokens are more text in the same context.",
            ),
            _section("Before, after, and smaller", _table(data.models), data.models_note),
            _section(
                "Right answers by kind",
                _table(data.kinds, bars=True),
                "Share of held-out instructions whose answer is exactly right.",
            ),
            _section("The same questions, before and after", _samples(data.samples)),
            _section("Go on", _commands(data.commands)),
            _section("What ran here", _facts(data.facts)),
        )
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Danlu tour</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n"
        f"{body}<footer>Every number on this page was measured by this run. Danlu "
        "(丹炉), the alchemist's furnace.</footer>\n</main>\n</body>\n</html>\n"
    )


def _head(data: ReportData) -> str:
    tiles = "".join(
        f'<div class="tile"><b>{_arrows(value)}</b><span>{escape(label)}</span></div>'
        for label, value in data.tiles
    )
    return (
        '<header><div class="head"><div class="seal" aria-hidden="true">丹</div>'
        f"<div><h1>The life of a model</h1><p class='soft'>{escape(data.summary)}</p></div></div>"
        f'<div class="tiles">{tiles}</div></header>\n'
    )


def _section(title: str, inner: str, note: str = "") -> str:
    if not inner:
        return ""
    said = f'<p class="soft">{escape(note)}</p>' if note else ""
    return f"<section><h2>{escape(title)}</h2>{said}{inner}</section>\n"


def _life(steps: Sequence[LifeStep]) -> str:
    items = "".join(
        f'<li data-mark="{number}"><b>{escape(step.title)}</b><time>{escape(step.duration)}</time>'
        f"<p>{_arrows(step.proof)}</p></li>"
        for number, step in enumerate(steps, start=1)
    )
    return f'<ol class="life">{items}</ol>'


def _charts(charts: Sequence[tuple[str, str]]) -> str:
    figures = "".join(
        f'<figure class="card"><figcaption>{escape(title)}</figcaption>{svg}</figure>'
        for title, svg in charts
        if svg
    )
    return f'<div class="charts">{figures}</div>' if figures else ""


def _table(table: TableData, *, bars: bool = False) -> str:
    if not table.rows:
        return ""
    head = "".join(f"<th>{escape(name)}</th>" for name in table.header)
    rows = "".join(f"<tr>{_cells(row, bars=bars)}</tr>" for row in table.rows)
    body = f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody>"
    return f'<div class="card"><table>{body}</table></div>'


def _cells(row: Sequence[str], *, bars: bool) -> str:
    first, *others = row
    cells = [f"<td>{escape(first)}</td>"]
    for value in others:
        is_share = bars and value.endswith("%")
        look = f' class="bar" style="--share:{value.replace(" ", "")}"' if is_share else ""
        cells.append(f"<td{look}>{escape(value)}</td>")
    return "".join(cells)


def _samples(samples: Sequence[Sample]) -> str:
    return "".join(
        f'<div class="card sample"><div class="asked"><p>{escape(sample.prompt)}</p></div>'
        f"{_answer('Before fine-tuning', sample.before, sample.before_is_right)}"
        f"{_answer('After', sample.after, sample.after_is_right)}"
        f"{'' if sample.after_is_right else _expected(sample.expected)}</div>"
        for sample in samples
    )


def _expected(text: str) -> str:
    return f'<div class="asked"><h3>Expected</h3><p>{escape(text)}</p></div>'


def _answer(title: str, text: str, is_right: bool) -> str:
    look, mark = ("right", "✓") if is_right else ("wrong", "✗")
    shown = escape(text.strip()) or "(nothing)"
    return f'<div><h3>{title} <span class="{look}">{mark}</span></h3><p>{shown}</p></div>'


def _arrows(text: str) -> str:
    """Return the text for the page; what a terminal writes as -> is an arrow here."""
    return escape(text.replace("->", "→"))


def _commands(commands: Sequence[tuple[str, str]]) -> str:
    return "".join(f"<pre><i># {escape(what)}</i>\n{escape(line)}</pre>" for what, line in commands)


def _facts(facts: Mapping[str, str]) -> str:
    rows = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts.items())
    return f'<div class="card"><dl class="facts">{rows}</dl></div>'

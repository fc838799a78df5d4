"""The report's HTML: `ReportData` in, one self-contained page out; it knows no tour."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape

from danlu.commands.pages import parts
from danlu.commands.pages.parts import TableData, arrows, section


@dataclass(frozen=True)
class LifeStep:
    """One step of the tour: its title, its line of proof and how long it took."""

    title: str
    proof: str
    duration: str


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
            parts.head("The life of a model", data.summary, data.tiles),
            section("Its life", _life(data.life)),
            section("How it learned", _charts(data.charts)),
            section(
                "What it reads",
                parts.table(data.tokenizer),
                "Average tokens per document: fewer tokens are more text in the same context.",
            ),
            section("Before, after, and smaller", parts.table(data.models), data.models_note),
            section(
                "Right answers by kind",
                parts.table(data.kinds, bars=True),
                "Share of held-out instructions whose answer is exactly right.",
            ),
            section("The same questions, before and after", _samples(data.samples)),
            section("Go on", parts.commands(data.commands)),
            section("What ran here", parts.facts(data.facts)),
        )
    )
    return parts.document("Danlu tour", body, "Every number on this page was measured by this run.")


def _life(steps: Sequence[LifeStep]) -> str:
    items = "".join(
        f'<li data-mark="{number}"><b>{escape(step.title)}</b><time>{escape(step.duration)}</time>'
        f"<p>{arrows(step.proof)}</p></li>"
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

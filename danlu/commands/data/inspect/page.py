"""The page of `danlu data inspect`: one HTML file with every token coloured by role and loss."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from danlu import __version__
from danlu.commands.data.inspect.checks import Finding
from danlu.commands.data.inspect.inspecting import Inspection, label_text
from danlu.commands.data.inspect.page_style import SCRIPT, STYLE
from danlu.commands.data.inspect.views import RowView, TokenView
from danlu.errors import OutputError
from danlu.files import write_text

LEGEND = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "control": "of the format",
}
MARKS = (("\n", "\u21b5"), ("\t", "\u21e5"))  # shown in front of a line end, and of a tab
BEGIN = "<!doctype html>\n"
MOST_SHOWN = 100_000  # tokens of a row
_TOOL_ROLES = ("function", "observation", "ipython")


def write_page(inspection: Inspection, path: Path) -> None:
    """Write the page to a file, which may be an older page.

    Raises:
        OutputError: if something else is there, or it cannot be written.
    """
    if path.exists() and not (path.is_file() and path.read_bytes().startswith(BEGIN.encode())):
        raise OutputError(
            f"'{path}' is no page of `danlu data inspect`; nothing was overwritten. Choose another "
            "name for the page."
        )
    write_text(path, page(inspection))


def page(inspection: Inspection) -> str:
    """Return the page: what was found, and the rows to be shown."""
    data = dict(inspection.facts).get("data", "")
    shown = "\n".join(
        _row(inspection, number, row) for number, row in enumerate(inspection.shown, 1)
    )
    return (
        f'{BEGIN}<html lang="en" data-theme="light">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(data)}: what the model sees</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n<main>\n<h1>What the model sees</h1>\n"
        f'<p class="sub">danlu data inspect, version {escape(__version__)}</p>\n'
        f"{_facts(inspection)}\n{_findings(inspection.findings)}\n{_bar()}\n{shown}\n</main>\n"
        f'<div id="tip" role="status"></div>\n<script>{SCRIPT}</script>\n</body>\n</html>\n'
    )


def _facts(inspection: Inspection) -> str:
    entries = "".join(
        f"<div><dt>{escape(label)}</dt><dd>{escape(value)}</dd></div>"
        for label, value in inspection.facts
    )
    return f'<dl class="facts">{entries}</dl>'


def _findings(found: Sequence[Finding]) -> str:
    if not found:
        return '<p class="good">Nothing looks wrong.</p>'
    return "\n".join(
        f'<div class="finding{" grave" if finding.is_grave else ""}">'
        f"{_headed(finding.what)}<span>{escape(finding.why)}</span></div>"
        for finding in found
    )


def _headed(what: str) -> str:
    """Return the first line as a heading, what it lists below."""
    first, _, others = what.partition("\n")
    return f"<b>{escape(first)}</b>" + (f"\n{escape(others)}" if others else "")


def _bar() -> str:
    swatches = "".join(
        f'<span class="swatch"><i class="{role}">{escape(name)}</i></span>'
        for role, name in LEGEND.items()
    )
    return (
        f'<nav class="bar">{swatches}<span class="swatch"><i class="assistant learned">learned</i>'
        '</span><label><input type="checkbox" id="only"> fade the rest</label>'
        '<label><input type="checkbox" id="plain"> hide token edges</label>'
        '<button id="theme" type="button">light / dark</button></nav>'
    )


def _row(inspection: Inspection, number: int, row: RowView) -> str:
    learned = row.num_learned / max(len(row.tokens), 1)
    notes = [("grave", row.problem), ("", row.shortened), ("", row.unlearned)]
    told = "".join(f'<em class="{kind}">{escape(note)}</em>' for kind, note in notes if note)
    tokens = "".join(_token(inspection, token) for token in row.tokens[:MOST_SHOWN])
    more = len(row.tokens) - MOST_SHOWN
    tokens += f"<b>... and {more:,} more tokens</b>" if more > 0 else ""
    return (
        f'<section class="row" id="row-{number}"><header><b>{escape(row.origin)}</b>'
        f"<span>{escape(row.what)}</span><span>{len(row.tokens):,} tokens</span>"
        f"<span>{row.num_learned:,} learned ({learned:.0%})</span>{told}</header>"
        f'<span class="meter" style="width:{learned:.2%}"></span>'
        f'<pre class="tokens">{tokens}</pre></section>'
    )


def _token(inspection: Inspection, token: TokenView) -> str:
    role = "tool" if token.role in _TOOL_ROLES else token.role
    classes = [role if role in (*LEGEND, "text") else "user"]
    classes += ["pill"] * token.is_control
    classes += ["learned"] * token.is_learned
    label = "" if token.label is None else str(token.label)
    instead = ""
    if token.label is not None and token.label != token.token_id:
        instead = f"<sup>\u2192 {escape(label_text(inspection, token.label))}</sup>"
    weight = f' style="--w:{min(token.weight, 1.0):g}"' if token.weight != 1 else ""
    return (
        f'<i class="{" ".join(classes)}" data-t="{token.token_id}|{label}|{token.weight:g}"'
        f"{_spoken(token.text)}{weight}>{_visible(token.text)}{instead}</i>"
    )


def _spoken(text: str) -> str:
    """Return the attribute with the token's own text, where marks are put into what is shown."""
    marked = any(character in text for character, _ in MARKS)
    return f' data-s="{escape(text)}"' if marked else ""


def _visible(text: str) -> str:
    shown = escape(text)
    for character, mark in MARKS:
        shown = shown.replace(character, f"<u>{mark}</u>{character}")
    return shown

"""`danlu data inspect`: every token of a row, coloured by role and by what is learned."""

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.markup import escape
from rich.text import Text

from danlu.cli import flags
from danlu.cli.run_files import split_arguments
from danlu.cli.terminal import print_rows, results
from danlu.errors import ConfigError

if TYPE_CHECKING:
    from danlu.commands.data.inspect import Inspection, Plan, RowView, TokenView

STYLES = {
    "system": "magenta",
    "user": "blue",
    "assistant": "green",
    "tool": "yellow",
    "control": "bright_black",
}
MOST_SHOWN = 20_000  # tokens of a row
LEARNED = "bold white on dark_green"
OPENS, CLOSES = "\u27e6", "\u27e7"  # around what is learned, where there are no colours


def command(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN.yaml|KEY=VALUE]",
            help="A run file and values that replace its own; or give --model and --data.",
            show_default=False,
        ),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Folder (or id) of a model, or of a tokenizer alone.")
    ] = None,
    data: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="File or folder to look into; may be repeated."),
    ] = None,
    rows: Annotated[int, typer.Option(min=1, help="Rows of each source that are shown.")] = 3,
    check: Annotated[
        int, typer.Option(min=0, help="Rows of each source that are checked; 0: all.")
    ] = 1000,
    html: Annotated[
        Path | None, typer.Option(help="Write a page with the rows to this file.")
    ] = None,
    format: flags.ChatFormat = None,
    shape: Annotated[
        str | None,
        typer.Option(help="Row shape, such as alpaca; default: told by each row's content."),
    ] = None,
    learn: Annotated[
        Literal["answers", "last", "all"] | None,
        typer.Option(help="What is learned: every answer (default), the last one, or every token."),
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=2, help="Shorten longer rows to so many tokens.")
    ] = None,
    family: flags.Family = None,
) -> None:
    """Show every token of some rows, coloured by role and by what is learned of it.

    Warns of a doubled BOS, a stop token that is never learned, control tokens that the
    checkpoint never trained, rows that teach nothing or do not fit.

    [bold]Examples[/bold]

    - danlu data inspect finetune.yaml

    - danlu data inspect finetune.yaml data.max_seq_len=512 --html rows.html --rows 50

    - danlu data inspect --model MODEL --data rows.jsonl --format chatml
    """
    from danlu.commands.data.inspect import inspect_data, write_page

    plan = _plan(arguments or [], model, data or [], family, format, shape, learn, max_tokens)
    inspection = inspect_data(plan, max(check, rows) if check else None, rows)
    if html is not None:
        write_page(inspection, html)
    print_rows(inspection.facts, title="What the model sees")
    _print_findings(inspection)
    if html is not None:
        results().print(f"\n[bold]Written to {escape(str(html))}[/], {len(inspection.shown)} rows")
        return
    _print_legend()
    for row in inspection.shown:
        _print_row(inspection, row)


def _plan(
    arguments: Sequence[str],
    model: str | None,
    data: Sequence[str],
    family: str | None,
    format: str | None,
    shape: str | None,
    learn: Literal["answers", "last", "all"] | None,
    max_tokens: int | None,
) -> "Plan":
    from danlu.commands.data.inspect import Plan, plan_of_run
    from danlu.config.data import DataSource

    run_file, overrides = split_arguments(arguments)
    given = model is not None or bool(data)
    if (run_file is None) != given or (given and (model is None or not data or overrides)):
        raise ConfigError(
            "Expected a run file, or both --model and --data: `danlu data inspect run.yaml`, or "
            "`danlu data inspect --model MODEL --data rows.jsonl`."
        )
    if run_file is not None:
        unused = {
            "--family": family,
            "--format": format,
            "--shape": shape,
            "--learn": learn,
            "--max-tokens": max_tokens,
        }
        named = [name for name, value in unused.items() if value is not None]
        if named:
            raise ConfigError(
                f"{', '.join(named)} would not be used: the run file says it. Give it as "
                "key=value, as in data.chat_format=chatml."
            )
        return plan_of_run(run_file, overrides)
    assert model is not None
    sources = [DataSource(path=path, format=shape) for path in data]
    return Plan(model, sources, family, format, learn or "answers", max_tokens)


def _print_findings(inspection: "Inspection") -> None:
    results().print()
    if not inspection.findings:
        results().print("[green]Nothing looks wrong.[/]")
    for finding in inspection.findings:
        style, mark = ("bold red", "!") if finding.is_grave else ("yellow", "-")
        first, _, others = finding.what.partition("\n")
        results().print(f"[{style}]{mark} {escape(first)}[/]")
        if others:
            results().print(escape(others))
        results().print(f"  [dim]{escape(finding.why)}[/]")


def _print_legend() -> None:
    legend = Text("\n")
    for role, style in STYLES.items():
        legend.append("of the format" if role == "control" else role, style)
        legend.append("  ")
    legend.append(*_learned("learned"))
    results().print(legend)


def _learned(text: str) -> tuple[str, str]:
    """Return a learned text and its style; between brackets where no colour would tell."""
    shows_colours = results().color_system is not None
    return (text, LEARNED) if shows_colours else (f"{OPENS}{text}{CLOSES}", "")


def _print_row(inspection: "Inspection", row: "RowView") -> None:
    head = f"{row.what}, {len(row.tokens):,} tokens, {row.num_learned:,} learned"
    results().print(f"\n[bold]{escape(row.origin)}[/]  [dim]{head}[/]")
    for note, style in ((row.problem, "red"), (row.shortened, "yellow"), (row.unlearned, "yellow")):
        if note:
            results().print(f"[{style}]{escape(note)}[/]")
    shown = Text()
    for is_learned, tokens in groupby(row.tokens[:MOST_SHOWN], key=lambda token: token.is_learned):
        parts = [(_text_of(inspection, token), token) for token in tokens]
        if is_learned:
            shown.append(*_learned("".join(text for text, _ in parts)))
        else:
            for text, token in parts:
                shown.append(text, STYLES.get(token.role, ""))
    results().print(shown)
    more = len(row.tokens) - MOST_SHOWN
    if more > 0:
        results().print(f"[dim]... and {more:,} more tokens; --max-tokens shortens long rows[/]")


def _text_of(inspection: "Inspection", token: "TokenView") -> str:
    """Return what a token shows, and what is learned in its place."""
    from danlu.commands.data.inspect import label_text

    if token.label is None or token.label == token.token_id:
        return token.text
    return f"{token.text}\u2192{label_text(inspection, token.label)}"

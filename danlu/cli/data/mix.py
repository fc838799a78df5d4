"""`danlu data mix`: the shares of a mixture, and the mixture as one file."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.markup import escape

from danlu.cli import flags
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_table, results


def command(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="[WEIGHT] SOURCE...",
            help="Files or folders, each with a weight in front of it or 1.",
        ),
    ],
    kind: Annotated[
        Literal["conversations", "text"], typer.Option("--kind", help="What the sources hold.")
    ] = "conversations",
    temperature: Annotated[
        float,
        typer.Option(
            min=1,
            help="1: a source of weight 2 is seen twice. More: sizes matter less. inf: weights "
            "are the shares, as in Megatron and PaddleNLP.",
        ),
    ] = 1.0,
    tokenizer: Annotated[
        str | None, typer.Option(help="Measure in tokens of this tokenizer, not in bytes.")
    ] = None,
    format: flags.ChatFormat = None,
    out: Annotated[
        Path | None, typer.Option(help="Write one pass, shuffled, to this new JSON Lines file.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Decides order and choice.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Show how often each source of a mixture is seen, and write the mixture if asked.

    A run mixes by itself: data.instructions and data.corpus take a list of {path, weight}.

    [bold]Examples[/bold]

    - danlu data mix 2 identity.jsonl 1 alpaca.jsonl --out mixed.jsonl

    - danlu data mix 0.3 en/ 0.7 zh/ --kind text --temperature inf --tokenizer runs/tokenizer
    """
    from danlu.commands.data.mix import mix, parse_sources

    with shown_progress() as progress:
        report = mix(
            parse_sources(sources),
            kind=kind,
            temperature=temperature,
            tokenizer=tokenizer,
            chat_format=format,
            out=out,
            seed=seed,
            progress=progress,
        )
    if as_json:
        results().print_json(json.dumps(report.as_dict()))
        return
    print_table(report.header(), report.table(), title="One pass over the mixture")
    if out is not None:
        results().print(f"\n[bold]Written to {escape(str(out))}[/], {report.written:,} rows")

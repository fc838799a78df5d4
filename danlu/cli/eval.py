"""`danlu eval`: exact-match accuracy on instructions, perplexity on text."""

from pathlib import Path
from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows


def command(
    model: flags.Model,
    instructions: Annotated[
        Path | None, typer.Option(help="Conversations; the last answer of each is the right one.")
    ] = None,
    text: Annotated[Path | None, typer.Option(help="Text to measure perplexity on.")] = None,
    adapter: flags.Adapter = None,
    quantize: flags.Quantize = None,
    dtype: flags.Dtype = "auto",
    device: flags.Device = "auto",
    family: flags.Family = None,
    speed: flags.Speed = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only so many instructions and documents.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write scores and every answer to this JSON file.")
    ] = None,
) -> None:
    """Measure how often a model answers exactly right, and how well it predicts text.

    Answers are drawn greedily and must equal the right one but for white space at the ends.

    [bold]Examples[/bold]

    - danlu eval danlu-tour/model --instructions danlu-tour/world/instructions_test.jsonl

    - danlu eval MODEL --text held_out.txt --quantize int4 --speed
    """
    from danlu.commands.evaluate import evaluate

    with shown_progress() as progress:
        report = evaluate(
            model,
            instructions,
            text,
            adapter,
            quantize,
            dtype,
            device=device,
            family=family,
            with_speed=speed,
            limit=limit,
            out=out,
            progress=progress,
        )
    print_rows(report.rows(), title=model)

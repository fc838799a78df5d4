"""`danlu compare`: how far one model is from another."""

from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows


def command(
    a: Annotated[
        str, typer.Argument(metavar="A", help="Folder of the reference model, or its id.")
    ],
    b: Annotated[str, typer.Argument(metavar="B", help="Folder of the other model, or its id.")],
    text: flags.Text = None,
    dtype: Annotated[str, typer.Option(help="Compute in fp32, bf16 or fp16.")] = "fp32",
    speed: flags.Speed = True,
) -> None:
    """Compare two models that share a tokenizer: KL, top-1 agreement, perplexity, speed.

    [bold]Example[/bold]

    - danlu compare danlu-tour/model danlu-tour/model-int4 --text danlu-tour/world/held_out.jsonl
    """
    from danlu.commands.compare import compare
    from danlu.engine.placement import named_dtype

    with shown_progress() as progress:
        report = compare(a, b, text, named_dtype(dtype), with_speed=speed, progress=progress)
    print_rows(report.rows(), title=f"{b} against {a}")

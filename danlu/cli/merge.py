"""`danlu merge`: an adapter into its base, and the proof that nothing moved."""

from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows
from danlu.config.quantize.scheme import PresetName


def command(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Folder of the base model, or its id.")
    ],
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Folder of the adapter.")],
    out: flags.OutFolder,
    also: Annotated[
        list[str] | None,
        typer.Option("--also", metavar="ADAPTER", help="A further adapter; may be repeated."),
    ] = None,
    text: flags.Text = None,
    dtype: Annotated[
        str, typer.Option(help="dtype to store: fp32, bf16 or fp16; auto: as the base is stored.")
    ] = "auto",
    quantize: Annotated[
        PresetName | None,
        typer.Option(
            help="What the base was rounded to in training; default: as the adapter itself says."
        ),
    ] = None,
    max_kl: Annotated[
        float, typer.Option(help="Fail if outputs move by more than this mean KL, in nats.", min=0)
    ] = 1e-2,
    family: flags.Family = None,
) -> None:
    """Merge an adapter into its base model and show that the logits did not move.

    An adapter that was trained on a rounded base (Q-LoRA) is added to that base, made dense.

    [bold]Examples[/bold]

    - danlu merge danlu-tour/pretrain/model danlu-tour/finetune/adapter merged

    - danlu merge BASE ADAPTER OUT --also ADAPTER2 --dtype bf16
    """
    from danlu.commands.merge import merge
    from danlu.engine.placement import named_dtype

    stored = None if dtype == "auto" else named_dtype(dtype)
    with shown_progress() as progress:
        report = merge(
            base,
            [adapter, *(also or [])],
            out,
            text,
            stored,
            progress,
            family,
            quantize,
            max_kl,
        )
    print_rows(report.rows(), title=f"Merged into {out}")

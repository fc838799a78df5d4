"""`danlu merge`: an adapter into its base, and the proof that nothing moved."""

from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows


def command(
    base: Annotated[
        str, typer.Argument(metavar="BASE", help="Folder of the base model, or its id.")
    ],
    adapter: Annotated[str, typer.Argument(metavar="ADAPTER", help="Folder of the adapter.")],
    out: flags.OutFolder,
    text: flags.Text = None,
    dtype: Annotated[
        str, typer.Option(help="dtype to store: fp32, bf16 or fp16; auto: as the base is stored.")
    ] = "auto",
    family: flags.Family = None,
) -> None:
    """Merge an adapter into its base model and show that the logits did not move.

    [bold]Example[/bold]

    - danlu merge danlu-tour/pretrain/model danlu-tour/finetune/adapter merged
    """
    from danlu.commands.merge import merge
    from danlu.engine.placement import named_dtype

    stored = None if dtype == "auto" else named_dtype(dtype)
    with shown_progress() as progress:
        report = merge(base, adapter, out, text, stored, progress, family)
    print_rows(report.rows(), title=f"Merged into {out}")

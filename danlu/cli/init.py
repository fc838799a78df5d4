"""`danlu init`: a commented run file to edit."""

from pathlib import Path
from typing import Annotated

import typer

from danlu.cli.terminal import remarks, results


def command(
    kind: Annotated[
        str,
        typer.Option(
            help="What to run: sft (every weight), lora, qlora (on 4 bits), prefix, dpo "
            "(preferences), quantize or pretrain."
        ),
    ] = "lora",
    out: Annotated[
        Path | None, typer.Option(help="A new file to write; without it: to stdout.")
    ] = None,
) -> None:
    """Write a run file with every key, its default and what it means, to edit.

    [bold]Examples[/bold]

    - danlu init --kind lora --out lora.yaml

    - danlu init --kind dpo --out dpo.yaml    (then: danlu align dpo.yaml)

    - danlu init --kind pretrain | less
    """
    from danlu.commands.init import run_file_text, starter, write_run_file

    if out is None:
        results().out(run_file_text(kind), end="", highlight=False)
        return
    write_run_file(kind, out)
    command_name = starter(kind).command
    remarks().print(f"Wrote {out}. Edit it, then: danlu {command_name} {out}", markup=False)

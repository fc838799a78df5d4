"""`danlu info`: what a folder is."""

from typing import Annotated

import typer

from danlu.cli.terminal import print_rows


def command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="Folder of a model or adapter.")],
) -> None:
    """Say what a folder holds: family, sizes, parameters, memory, tokenizer, chat format.

    Reads configs and headers only, so it answers at once for any size.

    [bold]Example[/bold]

    - danlu info danlu-tour/model
    """
    from danlu.commands.info import describe

    print_rows(describe(path).rows(), title=path)

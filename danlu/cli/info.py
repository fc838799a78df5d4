"""`danlu info`: what a folder is."""

from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.terminal import print_json, print_rows
from danlu.files import size_text


def command(
    path: Annotated[
        str,
        typer.Argument(metavar="PATH", help="Folder of a model or adapter, or a downloaded ID."),
    ],
    family: flags.Family = None,
    files: Annotated[
        bool, typer.Option("--files/--no-files", help="Also list the files with their sizes.")
    ] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything as JSON.")] = False,
) -> None:
    """Say what a folder holds, what it needs, and what is missing or wrong.

    Family, sizes, parameters, memory to load and to train, tokenizer, chat format. Reads configs
    and headers only, so it answers at once for any size. A broken folder is described too, with
    everything that is wrong; exit code 2 means that it is no model at all.

    [bold]Examples[/bold]

    - danlu info danlu-tour/model

    - danlu info Qwen/Qwen-1_8B-Chat --json
    """
    from danlu.commands.info import describe

    found = describe(path, family)
    if as_json:
        print_json(found.as_dict())
        return
    print_rows(found.rows(), title=found.path)
    if found.problems:
        print_rows([("-", text) for text in found.problems], title="\nmissing or wrong")
    if found.notes:
        print_rows([("-", text) for text in found.notes], title="\ngood to know")
    if files:
        sizes = {name: size_text(size) for name, size in found.files.items()}
        print_rows(sizes.items(), title="\nfiles")

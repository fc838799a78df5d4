"""`danlu models`: the families that Danlu opens, and what works with each."""

from typing import Annotated

import typer

from danlu.cli.terminal import print_json, print_rows, print_table


def command(
    family: Annotated[
        str | None, typer.Argument(metavar="[FAMILY]", help="A family, to see all about it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the model families and what works with each, or show one with its names and keys.

    The last two columns say what `danlu export` makes of a model: the architecture that stock
    transformers and vLLM open, and the graph of llama.cpp. "-": not possible; the family's own page
    says why.

    [bold]Examples[/bold]

    - danlu models

    - danlu models baichuan2-13b
    """
    if family is None:
        _list(as_json)
    else:
        _show(family, as_json)


def _list(as_json: bool) -> None:
    from danlu.commands.models import HEADER, list_families

    rows = list_families()
    if as_json:
        from dataclasses import asdict

        print_json([asdict(row) for row in rows])
        return
    print_table(HEADER, [row.cells() for row in rows], numbers=False)
    print_rows([(row.name, row.summary) for row in rows], title="\nwhat they are")


def _show(name: str, as_json: bool) -> None:
    from danlu.commands.models import describe_family

    found = describe_family(name)
    if as_json:
        print_json(found.as_dict())
        return
    print_rows(found.rows())
    print_rows(found.keys_read.items(), title="\nconfig keys read")
    print_rows(found.keys_ignored.items(), title="\nconfig keys ignored, besides common ones")
    if found.tensors_ignored:
        print_rows(found.tensors_ignored.items(), title="\ntensors ignored, by their ending")
    names = [(row.published, row.ours_text()) for row in found.tensors]
    print_rows(names, title="\npublished tensor, and what it is here")

"""`danlu download`: a model from a hub."""

from pathlib import Path
from typing import Annotated

import typer

from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_json, print_rows


def command(
    model: Annotated[
        str,
        typer.Argument(metavar="ID", help="OWNER/NAME, as the model's page shows it."),
    ],
    source: Annotated[
        str | None, typer.Option(help="hf (Hugging Face) or modelscope; default: hf.")
    ] = None,
    revision: Annotated[
        str | None, typer.Option(help="Branch, tag or commit; default: the main branch.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for the model; default: Danlu's own, found again by the ID."),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Also fetch what Danlu does not read. Never code.")
    ] = False,
    token_file: Annotated[
        Path | None, typer.Option(help="File with your token, for gated and private models.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Fetch a model, verify every byte, and use it by its ID from then on.

    Fetches configs, tokenizer and one copy of the weights (safetensors where they are complete);
    never code. Every file is compared with the hub's checksum and gets its name only when all of
    them are right. Stopped, or the line broke? Give the same command again: it goes on.

    [bold]Examples[/bold]

    - danlu download Qwen/Qwen-1_8B-Chat

    - danlu download baichuan-inc/Baichuan2-7B-Chat --source modelscope --out models/baichuan2

    - danlu chat Qwen/Qwen-1_8B-Chat

    [bold]Environment[/bold]

    - HF_TOKEN, HF_ENDPOINT: token and mirror for Hugging Face

    - MODELSCOPE_API_TOKEN, MODELSCOPE_DOMAIN: the same for ModelScope

    - DANLU_HOME: where models are kept (default ~/.cache/danlu)
    """
    from danlu.commands.download import fetch_model

    with shown_progress() as progress:
        report = fetch_model(model, source, revision, out, everything, token_file, progress)
    if as_json:
        print_json(report.as_dict())
    else:
        print_rows(report.rows())

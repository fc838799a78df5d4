"""`danlu data build`: text into a folder of token ids."""

from pathlib import Path
from typing import Annotated

import typer

from danlu.cli import flags
from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows


def command(
    corpus: Annotated[
        list[str],
        typer.Argument(metavar="CORPUS...", help="Text, JSONL, tables, or folders of them."),
    ],
    tokenizer: Annotated[
        str, typer.Option(help="Folder (or id) of a tokenizer, or of a model with one.")
    ],
    out: Annotated[Path, typer.Option(help="New folder for the corpus.")],
    text_key: Annotated[str, typer.Option(help="Key or column that holds the text.")] = "text",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Processes that encode; default: one for each core."),
    ] = None,
    family: flags.Family = None,
) -> None:
    """Encode text once, for any number of pre-training runs with this tokenizer.

    Documents keep their boundaries and are read from the disk as they are needed.
    A build that was stopped goes on where it was when it is started again.
    Give the folder as data.corpus, alone or in a mixture.

    [bold]Examples[/bold]

    - danlu data build texts/ more.jsonl.gz --tokenizer runs/tokenizer --out runs/corpus

    - danlu pretrain pretrain.yaml data.corpus=runs/corpus data.held_out_fraction=0.01
    """
    from danlu.commands.data.build import build_corpus
    from danlu.config.data import DataSource

    sources = [DataSource(path=path, text_key=text_key) for path in corpus]
    with shown_progress() as progress:
        report = build_corpus(
            sources, tokenizer, out, family=family, workers=workers, progress=progress
        )
    print_rows(report.rows(), title=f"Built into {out}")

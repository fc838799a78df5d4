"""`danlu tokenizer`: train one, or compare several."""

from pathlib import Path
from typing import Annotated

import typer

from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows, print_table

app = typer.Typer(no_args_is_help=True, help="Train a tokenizer, or compare several.")


@app.command()
def train(
    corpus: Annotated[
        list[Path],
        typer.Argument(metavar="CORPUS", help="Text, JSONL, or folders of them."),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the tokenizer.")],
    vocab_size: Annotated[int, typer.Option(help="Tokens, control tokens included.")] = 4096,
    chat_format: Annotated[
        str, typer.Option(help="Chat format whose control tokens it gets.")
    ] = "chatml",
) -> None:
    """Train a byte-level BPE tokenizer; stock transformers opens it too.

    [bold]Example[/bold]

    - danlu tokenizer train corpus.txt --out runs/tokenizer --vocab-size 8000
    """
    from danlu.commands.tokenizer import train_tokenizer

    with shown_progress() as progress:
        report = train_tokenizer(corpus, out, vocab_size, chat_format, progress)
    print_rows(report.rows(), title=f"Trained into {out}")


@app.command()
def compare(
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER", help="Folders with a tokenizer.")
    ],
    text: Annotated[
        list[Path], typer.Option(help="Text, JSONL or folder to count on; may be repeated.")
    ],
    code: Annotated[
        list[Path] | None, typer.Option(help="The same, of code; may be repeated.")
    ] = None,
) -> None:
    """Count tokens per document for Chinese, English and code, beside one token per byte.

    [bold]Example[/bold]

    - danlu tokenizer compare danlu-tour/tokenizer MODEL --text danlu-tour/world/held_out.jsonl
    """
    from danlu.commands.tokenizer import compare_token_counts

    table = compare_token_counts(tokenizers, text, code or [])
    print_table(table.header(), table.rows(), title="Average tokens per document")

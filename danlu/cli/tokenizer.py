"""`danlu tokenizer`: train one, or compare several."""

import json
from pathlib import Path
from typing import Annotated

import typer

from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows, print_table, results

app = typer.Typer(no_args_is_help=True, help="Train, extend or compare tokenizers.")

OutJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]


@app.command()
def train(
    corpus: Annotated[
        list[Path],
        typer.Argument(metavar="CORPUS", help="Text, JSONL, or folders of them."),
    ],
    out: Annotated[Path, typer.Option(help="New folder for the tokenizer.")],
    vocab_size: Annotated[
        int, typer.Option(help="Tokens wanted, the 256 bytes and control tokens included.")
    ] = 4096,
    chat_format: Annotated[
        str,
        typer.Option(
            help="Chat format saved with it: a built-in name, or a .jinja file. What it needs "
            "beyond <|endoftext|>, <|im_start|> and <|im_end|> is given with --control."
        ),
    ] = "chatml",
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="A further control token; may be repeated."),
    ] = None,
) -> None:
    """Train a byte-level BPE tokenizer; stock transformers opens it too.

    [bold]Examples[/bold]

    - danlu tokenizer train corpus.txt --out runs/tokenizer --vocab-size 8000

    - danlu tokenizer train texts/ more.jsonl --out runs/tokenizer --control "<|tool|>"
    """
    from danlu.commands.tokenizer import train_tokenizer

    with shown_progress() as progress:
        report = train_tokenizer(corpus, out, vocab_size, chat_format, progress, control or [])
    print_rows(report.rows(), title=f"Trained into {out}")


@app.command()
def compare(
    tokenizers: Annotated[
        list[str], typer.Argument(metavar="TOKENIZER", help="Folders with a tokenizer.")
    ],
    text: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[zh=|en=|code=]FILE",
            help="Text, code, JSONL or folder to count on; may be repeated. Without zh=, en= or "
            "code= in front, the kind is seen from the lines. Without any file: the tiny world.",
        ),
    ] = None,
    as_json: OutJson = False,
) -> None:
    """Count tokens per document for English, Chinese and code, beside one token per byte.

    [bold]Examples[/bold]

    - danlu tokenizer compare danlu-tour/tokenizer MODEL

    - danlu tokenizer compare A B C --text zh=news.txt --text en=books/ --text code=main.py
    """
    from danlu.commands.compression import compare_token_counts

    table = compare_token_counts(tokenizers, text or [])
    if as_json:
        results().print_json(json.dumps(table.as_dict()))
        return
    for title, header, rows in table.tables():
        print_table(header, rows, title=title)

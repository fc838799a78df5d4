"""`danlu tokenizer`: train one, add to one, or compare several."""

import json
from pathlib import Path
from typing import Annotated

import typer

from danlu.cli import flags
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
def extend(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="Folder (or id) of a model, or of a tokenizer alone."),
    ],
    out: flags.OutFolder,
    word: Annotated[
        list[str] | None, typer.Option(metavar="W", help="A word to add; may be repeated.")
    ] = None,
    words: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A file with a word per line; may be repeated."),
    ] = None,
    control: Annotated[
        list[str] | None,
        typer.Option(metavar="TOKEN", help="A control token to add; may be repeated."),
    ] = None,
    corpus: Annotated[
        list[Path] | None,
        typer.Option(help="Text, JSONL or folder to learn words from; may be repeated."),
    ] = None,
    add: Annotated[
        int, typer.Option(metavar="N", help="Learn the N words of the corpus that save most.")
    ] = 0,
    pad_to: Annotated[
        int, typer.Option(help="Make the number of rows a multiple of this, as 64.")
    ] = 1,
    family: flags.Family = None,
) -> None:
    """Add words and control tokens to a tokenizer and rows for them to its model.

    Old ids and their rows stay as they are.
    A word's row starts as the mean of the rows of its old tokens.
    A control token's starts as the mean of all ordinary rows. Train them next.

    [bold]Examples[/bold]

    - danlu tokenizer extend MODEL OUT --word 丹炉 --words terms.txt --control "<|tool|>"

    - danlu tokenizer extend MODEL OUT --corpus texts/ --add 2000 --pad-to 64
    """
    from danlu.commands.extend import NewTokens, extend_vocabulary

    new = NewTokens(word or [], words or [], control or [], corpus or [], add)
    with shown_progress() as progress:
        report = extend_vocabulary(model, out, new, pad_to, family, progress)
    print_rows(report.rows(), title=f"Extended into {out}")


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

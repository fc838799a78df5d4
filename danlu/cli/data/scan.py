"""`danlu data scan`: is the evaluation set in the training set?"""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from danlu.data.scanning.contamination import Overlap

from danlu.cli.progress import shown_progress
from danlu.cli.terminal import print_rows, remarks

SHOWN = 20


def command(
    training: Annotated[
        list[str],
        typer.Argument(metavar="TRAIN...", help="Files or folders of the training set."),
    ],
    against: Annotated[
        list[Path],
        typer.Option(metavar="FILE", help="File or folder of an evaluation set; may be repeated."),
    ],
    ngram: Annotated[
        int, typer.Option(min=2, help="Words, or Chinese characters, of a run that counts.")
    ] = 13,
    min_share: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Leave out overlaps with less than this part of the evaluation row."
        ),
    ] = 0.0,
    out: Annotated[
        Path | None,
        typer.Option(help="Write the overlaps, up to five of a row, to this new JSON file."),
    ] = None,
    fail_over: Annotated[
        int | None,
        typer.Option(
            metavar="N", min=0, help="Exit code 2 if more than N training rows are found."
        ),
    ] = None,
) -> None:
    """Find rows of the training set that hold items of evaluation sets.

    Case, punctuation and width do not count. An item shorter than a run is looked for as a whole.

    [bold]Examples[/bold]

    - danlu data scan train.jsonl --against gsm8k/test.jsonl

    - danlu data scan train/ corpus.txt --against eval/ --out contamination.json --fail-over 0
    """
    from danlu.commands.data.scan import refuse_more_than, scan

    with shown_progress() as progress:
        report = scan(training, against, ngram, min_share, out, progress)
    for overlap in report.overlaps[:SHOWN]:
        print_rows(_described(overlap), title=overlap.row)
    if len(report.overlaps) > SHOWN:
        remarks().print(f"({SHOWN} of {len(report.overlaps):,} overlaps; --out writes more)")
    print_rows(report.rows(), title="Contamination")
    if fail_over is not None:
        refuse_more_than(report, fail_over)


def _described(overlap: "Overlap") -> list[tuple[str, str]]:
    how = "as a whole" if overlap.is_whole else f"{overlap.share:.0%} of its runs"
    return [("holds", f"{overlap.item}, {how}"), ("in common", overlap.text)]

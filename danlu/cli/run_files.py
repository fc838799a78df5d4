"""Commands that take a run file: their arguments, `run.yaml key=value ...`, and their result."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from danlu.cli.progress import duration_text
from danlu.errors import ConfigError

if TYPE_CHECKING:
    from danlu.train.run_folder import RunResult

RunArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="RUN.yaml|KEY=VALUE",
        help="A run file (YAML, JSON, or the run.json of an earlier run) and values that replace "
        "its own, as in train.learning_rate=2e-5.",
        show_default=False,
    ),
]


def split_arguments(arguments: Sequence[str]) -> tuple[Path | None, list[str]]:
    """Return the run file, if one is given, and the overrides.

    Raises:
        ConfigError: if there is more than one file.
    """
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise ConfigError(
            f"Found {len(files)} run files: {', '.join(files)}. Expected one file and then "
            "key=value. A value with spaces needs quotes: 'note=a b'."
        )
    overrides = [argument for argument in arguments if "=" in argument]
    return (Path(files[0]) if files else None), overrides


def result_rows(result: "RunResult") -> list[tuple[str, str]]:
    """Return what a training run left behind, to print."""
    final = result.final
    rows = [
        ("written", str(result.output)),
        ("steps", f"{final.steps:,}"),
        ("loss", f"{final.loss:.4f}"),
        ("tokens", f"{final.tokens:,} ({final.tokens_per_s:,.0f} tokens/s)"),
        ("time", duration_text(final.elapsed_s)),
        ("peak memory", f"{final.peak_memory_bytes / 2**30:.2f} GiB"),
    ]
    if final.held_out_perplexity is not None:
        rows.insert(3, ("held-out perplexity", f"{final.held_out_perplexity:.4f}"))
    if result.already_finished:
        rows.insert(0, ("note", "this run had finished before; nothing was done"))
    elif result.resumed_from is not None:
        rows.insert(0, ("note", f"went on from step {result.resumed_from:,}"))
    return rows

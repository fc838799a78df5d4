"""`danlu tour`: a model's whole life on this machine, and then a chat with it."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape

from danlu.cli import chat
from danlu.cli.flags import field_option
from danlu.cli.progress import duration_text, shown_progress
from danlu.cli.terminal import is_interactive, print_table, remarks, results
from danlu.commands.tour.options import TourOptions

if TYPE_CHECKING:
    from danlu.commands.tour.run import StepDone, TourResult

_DEFAULT = TourOptions()


def command(
    out: Annotated[Path, field_option(TourOptions, "out")] = _DEFAULT.out,
    seed: Annotated[int, field_option(TourOptions, "seed")] = _DEFAULT.seed,
    minutes: Annotated[float | None, field_option(TourOptions, "minutes")] = _DEFAULT.minutes,
    corpus: Annotated[Path | None, field_option(TourOptions, "corpus")] = _DEFAULT.corpus,
    instructions: Annotated[
        Path | None, field_option(TourOptions, "instructions")
    ] = _DEFAULT.instructions,
    chat_after: Annotated[
        bool, typer.Option("--chat/--no-chat", help="Chat with the model at the end.")
    ] = True,
) -> None:
    """Take a tiny model from raw text to a chat, and prove each step. Nothing is downloaded.

    It trains a tokenizer, pre-trains a model from scratch, fine-tunes it with LoRA, merges,
    quantizes and evaluates it, and leaves a folder with everything and a report.html.

    Ctrl-C loses nothing that is finished: the same command goes on where it stopped.

    [bold]Examples[/bold]

    - danlu tour

    - danlu tour --out my-tour --seed 7 --minutes 15

    - danlu tour --corpus my-text/ --instructions my-questions.jsonl --out my-tour
    """
    from danlu.commands.tour.run import run_tour

    options = checked_options(
        out=out, seed=seed, minutes=minutes, corpus=corpus, instructions=instructions
    )
    started = time.monotonic()
    try:
        with shown_progress() as progress:
            result = run_tour(options, progress, show_step)
    except KeyboardInterrupt:
        remarks().print("\nStopped. What is finished stays; the same command goes on from here.")
        raise
    show_end(result, time.monotonic() - started)
    if chat_after and is_interactive():
        results().print("\nNow it is your turn. Ask it something like the questions in the report.")
        chat.command(str(result.paths.model), temperature=0.0)


def checked_options(**values: object) -> TourOptions:
    """Return the options, or raise a `ConfigError` that names each wrong flag."""
    from danlu.config.load import load_config
    from danlu.config.yaml_text import scalar_text

    given = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in values.items()
        if value is not None
    }
    return load_config(TourOptions, None, [f"{k}={scalar_text(v)}" for k, v in given.items()])


def show_step(done: "StepDone") -> None:
    """Print a finished step: a check mark, its title, how long it took, its proof."""
    took = "finished before" if done.skipped else duration_text(done.seconds)
    head = f"[bold green]✓[/] [bold]{done.number}/{done.total} {escape(done.title)}[/]"
    results().print(f"{head}  [dim]{took}[/]\n    {escape(done.proof)}")


def show_end(result: "TourResult", seconds: float) -> None:
    """Print the table of the models and how to go on."""
    from danlu.commands.tour.report import MODEL_HEADER, how_to_go_on, model_rows

    rows = model_rows(result.state, result.state.facts("evaluate"))
    results().print()
    print_table(MODEL_HEADER, rows)
    results().print(f"\nDone in {duration_text(seconds)}. Everything is in {result.paths.folder}")
    results().print(f"  report  {result.paths.report}")
    for what, line in how_to_go_on(result.paths)[:4]:
        results().print(f"  [dim]# {escape(what)}[/]\n  {escape(line)}")

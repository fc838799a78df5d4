"""The `danlu` program: builds the command line, runs it and turns errors into exit codes.

Exit codes: 0 done; 1 a bug of ours; 2 wrong input (also wrong flags); 130 stopped with Ctrl-C.
"""

import logging
import os
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module
from typing import Annotated

import typer

from danlu.cli.table import COMMANDS, Entry
from danlu.cli.terminal import TerminalHandler, complain
from danlu.errors import DanluError

DEBUG_FLAG = "--debug"
SPIN_COUNT = "1000"  # microseconds
COMPLETION_VARIABLE = "_DANLU_COMPLETE"  # set by the shell scripts of --install-completion
_HELP = """The whole life of an open language model on your own machine, with a proof at each step.

New here? [bold]danlu tour[/bold] takes a tiny model from raw text to a chat, in minutes.

[bold]danlu COMMAND --help[/bold] explains a command, with examples.
"""


def main() -> None:
    """Run the program on the process's arguments and leave with its exit code."""
    # Threads that wait for each other should not spin for long: on a machine with other work they
    # would take the processor from the very thread they wait for, and everything crawls.
    os.environ.setdefault("GOMP_SPINCOUNT", SPIN_COUNT)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; messages go to stderr."""
    debug = DEBUG_FLAG in arguments
    # The flag is understood anywhere in the line, also behind the command it shall explain.
    front = [DEBUG_FLAG] if debug else []
    rest = [argument for argument in arguments if argument != DEBUG_FLAG]
    try:
        build_app(_first_word(rest))(args=front + rest, prog_name="danlu")
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 0
    except DanluError as error:
        complain(_traceback(debug), f"{type(error).__name__}: {error}")
        return 2
    except Exception as error:
        hint = "" if debug else " Run it again with --debug for the details."
        what = f"{type(error).__name__}: {error}"
        complain(_traceback(debug), f"This is a bug in Danlu, not in your input. {what}.{hint}")
        return 1
    return 0


def build_app(only: str | None = None) -> typer.Typer:
    """Return the command line.

    Args:
        only: the one command to load; the others are listed in the help but not imported.
            None loads all.
    """
    app = typer.Typer(
        help=_HELP,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_options)
    for entry in COMMANDS:
        if only is None or entry.name == only:
            _load(app, entry)
        else:
            app.command(entry.name, help=entry.summary, rich_help_panel=entry.section)(_listed)
    return app


def _load(app: typer.Typer, entry: Entry) -> None:
    module = import_module(f"danlu.cli.{entry.name}")
    summary, section = entry.summary, entry.section
    if hasattr(module, "app"):
        app.add_typer(module.app, name=entry.name, short_help=summary, rich_help_panel=section)
    else:
        register = app.command(entry.name, short_help=summary, rich_help_panel=section)
        register(module.command)


def _listed() -> None:
    """Stand in for a command that this command line does not use."""


def _first_word(arguments: Sequence[str]) -> str | None:
    """Return the command's name; None (load all) where the shell asks for completions."""
    if COMPLETION_VARIABLE in os.environ:
        return None
    return next((argument for argument in arguments if not argument.startswith("-")), "")


def _show_version(wanted: bool) -> None:
    if wanted:
        from danlu import __version__

        typer.echo(f"danlu {__version__}")
        raise typer.Exit


def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_show_version, is_eager=True, help="Show the version and leave."
        ),
    ] = False,
    debug: Annotated[
        bool, typer.Option(DEBUG_FLAG, help="Show tracebacks and the library's log.")
    ] = False,
) -> None:
    logger = logging.getLogger("danlu")
    logger.handlers = [TerminalHandler()]
    logger.setLevel(logging.DEBUG if debug else logging.INFO)
    logger.propagate = False


def _traceback(debug: bool) -> str:
    return traceback.format_exc() if debug else ""

"""`danlu migrate`: an old command, or a file of arguments, to what does the same here."""

import importlib
import pkgutil
from functools import cache
from pathlib import Path

from danlu.commands.migrate.argument_file import read_arguments
from danlu.commands.migrate.old_command import OldCommand, parse_command
from danlu.commands.migrate.source import Migration, Source
from danlu.commands.migrate.trainer import DEFAULTS
from danlu.errors import ConfigError, bullet_list

NUMBERS = (
    *(name for name, default in DEFAULTS.items() if isinstance(default, int | float)),
    *("max_steps", "eval_steps", "logging_steps", "save_total_limit", "model_max_length"),
    *("lora_r", "lora_rank", "lora_alpha", "lora_dropout", "neftune_noise_alpha"),
    *("batch_size", "lr", "epochs", "warm_up", "warm_up_iters", "max_length", "eps"),
    *("clip_grad", "lora_plus_scale", "tensor_parallel_degree", "pipeline_parallel_degree"),
    *("sharding_parallel_degree", "src_length", "ptq_step", "gptq_step", "shift_step"),
    *("smooth_step", "smooth_k_piece", "search_alpha_min", "search_alpha_max"),
    *("search_scale_min", "search_scale_max", "max_len", "bits", "group-size", "group_size"),
)
FILES = (".json", ".yaml", ".yml")


@cache
def sources() -> tuple[Source, ...]:
    """Return every project whose commands are understood."""
    package = importlib.import_module("danlu.commands.migrate.sources")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return tuple(importlib.import_module(f"{package.__name__}.{name}").SOURCE for name in names)


def migrate(old: str) -> Migration:
    """Return what does here what an old command did.

    Args:
        old: a command line as typed into a shell, or the path of a file of arguments.

    Raises:
        ConfigError: if it is the command of no project that is known, or damaged.
    """
    command = _read(old)
    found = [source for source in sources() if source.claims(command)]
    if len(found) != 1:
        known = ", ".join(source.project for source in sources())
        raise ConfigError(
            f"No project that is known has the command {old!r}; expected one of these: {known}. "
            "Fine-tuning scripts and files of arguments are understood; for anything else, see "
            "`danlu --help`."
        )
    _check_numbers(command)
    return found[0].translate(command)


def _check_numbers(command: OldCommand) -> None:
    """Refuse values that are no numbers where the old flag took one."""
    given = ((name, command.arguments.get(name)) for name in NUMBERS)
    wrong = [
        f"--{name} {value}"
        for name, value in given
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float))
    ]
    if wrong:
        raise ConfigError(
            f"Flags of the old command take a number, and have none:{bullet_list(wrong)}\n"
            "Write the numbers there, also in place of shell variables."
        )


def _read(old: str) -> OldCommand:
    if old.strip().endswith(FILES) and len(old.split()) == 1:
        return OldCommand("", read_arguments(Path(old.strip())))
    return parse_command(old)

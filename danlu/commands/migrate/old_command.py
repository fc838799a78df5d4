"""An old command line, taken apart: launcher, script, flags. Nothing of it is ever executed."""

import re
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from danlu.config.yaml_text import parse_yaml
from danlu.errors import ConfigError

SCRIPT_ENDINGS = (".py", ".sh")
DEVICE_FLAGS = ("gpus", "devices", "nproc_per_node", "num_gpus", "include")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*=")
_NUMBER = re.compile(r"-?[0-9.]")


@dataclass(frozen=True)
class OldCommand:
    """What somebody used to type.

    Attributes:
        script: the script with its folder as given, such as ``finetune/finetune_ds.sh``; empty
            where only a file of arguments is known.
        arguments: flags without their dashes, with values; True for a flag without one.
        positional: what stood beside the flags, such as a file of arguments.
        devices: how many devices the launcher was told to use; None if it was not told.
    """

    script: str
    arguments: dict[str, Any] = field(default_factory=dict)
    positional: tuple[str, ...] = ()
    devices: int | None = None

    @property
    def script_name(self) -> str:
        """The script without its folder."""
        return PurePath(self.script).name


def parse_command(text: str) -> OldCommand:
    """Return the parts of a command line as one types it into a shell.

    Raises:
        ConfigError: if quotes are open, or no script is named.
    """
    try:
        words = shlex.split(text.replace("\\\n", " "), comments=True)
    except ValueError as error:
        raise ConfigError(
            f"The old command cannot be read: {error}. Expected it as typed into a shell, in one "
            "pair of quotes: danlu migrate 'python finetune.py --use_lora'."
        ) from None
    at = next((i for i, word in enumerate(words) if word.endswith(SCRIPT_ENDINGS)), None)
    if at is None:
        raise ConfigError(
            f"No script is named in {text!r}; expected the name of a .py or .sh file, or the path "
            "of a file of arguments (.json, .yaml)."
        )
    launcher, launched = _flags(words[:at])
    arguments, positional = _flags(words[at + 1 :])
    environment = dict(word.split("=", 1) for word in launched if _VARIABLE.match(word))
    return OldCommand(words[at], arguments, positional, _devices(launcher, environment))


def _flags(words: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return flags with their values, and the words that belong to none."""
    flags: dict[str, Any] = {}
    positional: list[str] = []
    rest = iter(_grouped(words))
    for flag, values in rest:
        if flag is None:
            positional += values
        elif "=" in flag:
            name, _, text = flag.partition("=")
            flags[name] = _value(text)
            positional += values
        else:
            plain = [_value(text) for text in values]
            flags[flag] = plain[0] if len(plain) == 1 else plain or True
    return flags, tuple(positional)


def _grouped(words: Sequence[str]) -> Iterator[tuple[str | None, list[str]]]:
    """Yield each flag with the words behind it; first those before any flag."""
    flag: str | None = None
    values: list[str] = []
    for word in words:
        if word.startswith("-") and not _NUMBER.match(word):
            if flag is not None or values:
                yield flag, values
            flag, values = word.lstrip("-"), []
        else:
            values.append(word)
    if flag is not None or values:
        yield flag, values


def _value(text: str) -> Any:
    """Return a value as the scripts understand it: True and False are no texts."""
    value = parse_yaml(text, f"the value {text!r}") if not text.startswith("$") else text
    return value if isinstance(value, bool | int | float) else text


def _devices(launcher: Mapping[str, Any], environment: Mapping[str, str]) -> int | None:
    for name in DEVICE_FLAGS:
        if name in launcher:
            return _count(str(launcher[name]))
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return _count(visible) if visible else None


def _count(text: str) -> int | None:
    """Return how many devices "0,1,2,3", "4" (of nproc_per_node) or "localhost:0,1" means."""
    listed = text.rpartition(":")[2]
    if "," in listed:
        return len([part for part in listed.split(",") if part.strip()])
    return 1 if listed.strip() == "0" else int(listed) if listed.isdigit() else None

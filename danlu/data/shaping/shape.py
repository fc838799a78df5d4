"""Row shapes: how a row of a public data set is recognised, and what it becomes.

A shape is one file in `danlu/data/shapes`; its file name is what `format:` calls it. Recognition
looks at the row alone, never at the name of its file.
"""

import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

from danlu.data.examples import Conversation, LabelledAnswer, Message, PreferencePair
from danlu.data.shaping.fields import Row
from danlu.data.shaping.tools import tools_of
from danlu.errors import ConfigError, did_you_mean

Example: TypeAlias = Conversation | PreferencePair | LabelledAnswer

COMMON_KEYS = ("kind", "system", "tools")  # understood beside every shape


@dataclass(frozen=True)
class Shape:
    """One shape of a row.

    Attributes:
        gives: what a row becomes.
        summary: its fields, for messages.
        keys: every key it reads, beside `COMMON_KEYS`; others are notes of the data set.
        recognises: is this row of the shape? Looks at keys and types only.
        read: the examples of a row, in order; their turns are checked by the caller. Raises
            `BadRow`.
        aliases: further names for `format:`.
    """

    gives: type[Example]
    summary: str
    keys: tuple[str, ...]
    recognises: Callable[[Row], bool]
    read: Callable[[Row, str], Sequence[Example]]
    aliases: tuple[str, ...] = ()


@cache
def shapes() -> dict[str, Shape]:
    """Return every shape by its file name in `danlu/data/shapes`."""
    package = importlib.import_module("danlu.data.shapes")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"{package.__name__}.{name}").SHAPE for name in names}


def named_shape(name: str, gives: type[Example]) -> Shape:
    """Return the shape that `format:` names.

    Raises:
        ConfigError: if there is none of that name, or it gives something else than `gives`.
    """
    known = {name: shape for name, shape in shapes().items() if shape.gives is gives}
    known |= {alias: shape for shape in known.values() for alias in shape.aliases}
    if name in known:
        return known[name]
    other = shapes().get(name)
    what = f"gives a {other.gives.__name__}" if other is not None else "is not a row shape"
    raise ConfigError(
        f"format {name!r} {what}; expected one that gives a {gives.__name__}: "
        f"{', '.join(sorted(known))}.{did_you_mean(name, known)}"
    )


@cache
def keys_of_rows() -> frozenset[str]:
    """Return every key that some shape reads; a JSON object with such lists is a row itself."""
    own = {key for shape in shapes().values() for key in shape.keys}
    return frozenset(own | set(COMMON_KEYS) | {"lines"})


def conversation(row: Row, messages: list[Message], origin: str) -> Conversation:
    """Return the conversation of a row, with what any row may say about one."""
    return Conversation(messages, origin, kind_of(row), tools_of(row))


def kind_of(row: Row) -> str:
    """Return the group that a row is reported under, empty where it names none."""
    kind = row.get("kind", "")
    return kind if isinstance(kind, str) else ""

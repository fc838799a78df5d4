"""Kinds of tokenizer files, one module each, found by file name.

A kind module has: `FILES` (what it looks for, for messages), `PRIORITY` (the highest that claims a
folder opens it), `claims(folder) -> bool` and `open_model(folder) -> TokenModel`.
"""

import pkgutil
from collections.abc import Iterator
from importlib import import_module
from typing import Protocol, cast

from danlu.tokenizer.model import TokenizerFolder, TokenModel


class Kind(Protocol):
    """What a kind module offers."""

    FILES: tuple[str, ...]
    PRIORITY: int

    def claims(self, folder: TokenizerFolder) -> bool:
        """Can this kind open the folder?"""

    def open_model(self, folder: TokenizerFolder) -> TokenModel:
        """Open the folder."""


def kinds() -> Iterator[Kind]:
    """Yield every kind, the most specific first."""
    names = [f"{__name__}.{module.name}" for module in pkgutil.iter_modules(__path__)]
    found = [cast("Kind", import_module(name)) for name in names]
    yield from sorted(found, key=lambda kind: -kind.PRIORITY)

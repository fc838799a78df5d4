"""What `danlu export --to` can name: one module each with a `TARGET`, found by file name."""

import pkgutil
from importlib import import_module
from typing import cast

from danlu.errors import ConfigError, did_you_mean
from danlu.export.target import Target


def target_names() -> list[str]:
    """Return the names of the targets."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__))


def find_target(name: str) -> Target:
    """Return a target.

    Raises:
        ConfigError: if there is none of that name.
    """
    known = target_names()
    if name not in known:
        raise ConfigError(
            f"Nothing can be exported to {name!r}.{did_you_mean(name, known)} "
            f"Expected one of: {', '.join(known)}."
        )
    return cast("Target", import_module(f"{__name__}.{name}").TARGET)

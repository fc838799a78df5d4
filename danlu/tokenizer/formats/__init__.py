"""Built-in chat formats, one module each with a `FORMAT`, found by file name.

The file `aquila_v1.py` holds the format "aquila-v1".
"""

import pkgutil
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import cast

from danlu.errors import TokenizerError, did_you_mean
from danlu.tokenizer.chat import ChatFormat
from danlu.tokenizer.jinja_format import JinjaFormat


def format_names() -> list[str]:
    """Return the names of the built-in formats."""
    return sorted(module.name.replace("_", "-") for module in pkgutil.iter_modules(__path__))


def find_format(name: str) -> ChatFormat:
    """Return a built-in format.

    Raises:
        TokenizerError: if there is none of that name.
    """
    names = format_names()
    if name not in names:
        raise TokenizerError(
            f"Unknown chat format {name!r}; built in are {', '.join(names)}, and a path that ends "
            f"in .jinja names a template file.{did_you_mean(name, names)}"
        )
    module = import_module(f"{__name__}.{name.replace('-', '_')}")
    return cast("ChatFormat", module.FORMAT)


def format_for(name: str) -> ChatFormat:
    """Return what a user's `format=` names: a built-in format or a template file.

    Raises:
        TokenizerError: if it is neither.
    """
    if not name.endswith(".jinja"):
        return find_format(name)
    path = Path(name)
    try:
        return JinjaFormat({"default": path.read_text(encoding="utf-8")}, str(path))
    except (OSError, UnicodeDecodeError) as error:
        raise TokenizerError(
            f"The chat template file '{path}' cannot be read: {error}. Expected a UTF-8 Jinja file."
        ) from None


def format_of_template(templates: Mapping[str, str]) -> ChatFormat | None:
    """Return the built-in format whose template a folder carries, None if it is another."""
    if set(templates) != {"default"}:
        return None
    for name in format_names():
        found = find_format(name)
        if found.template == templates["default"]:
            return found
    return None

"""Built-in chat formats, one module each with a `FORMAT`, found in this folder.

The file `aquila_v1.py` holds the format "aquila-v1"; a dot in a name is written `_`, too.
"""

import pkgutil
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import cast

from danlu.errors import TokenizerError, did_you_mean
from danlu.tokenizer.chat.chat_format import ChatFormat
from danlu.tokenizer.chat.jinja_format import JinjaFormat
from danlu.tokenizer.chat.template_json import templates_in_json


def format_names() -> list[str]:
    """Return the names of the built-in formats."""
    return sorted(_formats())


def find_format(name: str) -> ChatFormat:
    """Return a built-in format.

    Raises:
        TokenizerError: if there is none of that name.
    """
    formats = _formats()
    if name not in formats:
        raise TokenizerError(
            f"Unknown chat format {name!r}; built in are {', '.join(sorted(formats))}, and a path "
            "that ends in .jinja or .json names a template file."
            f"{did_you_mean(name, formats)}"
        )
    return formats[name]


@cache
def _formats() -> dict[str, ChatFormat]:
    modules = [
        import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)
    ]
    formats = [cast("ChatFormat", module.FORMAT) for module in modules]
    return {found.name: found for found in formats}


def format_for(name: str) -> ChatFormat:
    """Return what a user's `format=` names: a built-in format or a template file.

    Raises:
        TokenizerError: if it is neither.
    """
    if not name.endswith((".jinja", ".json")):
        return find_format(name)
    try:
        text = Path(name).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        kind = "Jinja" if name.endswith(".jinja") else "JSON"
        raise TokenizerError(
            f"The chat template file '{name}' cannot be read: {error}. "
            f"Expected a UTF-8 {kind} file."
        ) from None
    is_json = name.endswith(".json")
    return JinjaFormat(templates_in_json(text, name) if is_json else {"default": text}, name)


def format_of_template(templates: Mapping[str, str]) -> ChatFormat | None:
    """Return the built-in format whose template a folder carries, None if it is another."""
    if set(templates) != {"default"}:
        return None
    for name in format_names():
        found = find_format(name)
        if found.template == templates["default"]:
            return found
    return None

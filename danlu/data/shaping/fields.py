"""Typed access to the fields of one row; what does not fit is a `BadRow` that names the field."""

import json
import sys
from typing import Any, TypeAlias

Row: TypeAlias = dict[str, Any]

_TRUTHS = {"true": True, "1": True, "false": False, "0": False}  # as CSV and old JSON write them


class BadRow(Exception):
    """Why a row cannot be read; becomes one line of a `DataError`."""


def text_of(row: Row, key: str) -> str:
    """Return the text under `key`, which must be there."""
    if key not in row:
        raise BadRow(f"'{key}' is missing")
    value = row[key]
    if not isinstance(value, str):
        raise BadRow(f"'{key}' is not a text but {described(value)}")
    return value


def optional_text(row: Row, key: str) -> str:
    """Return the text under `key`, an empty one if there is none."""
    return text_of(row, key) if key in row else ""


def texts_of(row: Row, key: str) -> list[str]:
    """Return the texts under `key`: a list of them, or one alone; an empty one alone is none."""
    value = row.get(key)
    if not isinstance(value, list):
        text = text_of(row, key)
        return [text] if text else []
    for number, text in enumerate(value, start=1):
        if not isinstance(text, str):
            raise BadRow(f"'{key}' holds something that is not a text: item {number} is {text!r}")
    return value


def list_of(row: Row, key: str) -> list[Any]:
    """Return the list under `key`, which may be written as JSON text, as in a table's cell."""
    value = row.get(key)
    if isinstance(value, str) and value.lstrip().startswith("["):
        value = from_json(value, f"'{key}'")
    if not isinstance(value, list):
        raise BadRow(f"'{key}' is not a list but {described(value)}")
    return value


def truth_of(row: Row, key: str) -> bool:
    """Return the true or false under `key`; 0, 1 and their names are understood."""
    value = row[key]
    known = value if isinstance(value, bool) else _TRUTHS.get(str(value).lower())
    if known is None:
        raise BadRow(f"'{key}' is {value!r}; expected true or false")
    return known


def number_of(row: Row, key: str) -> float:
    """Return the finite number under `key`."""
    value = row[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not abs(value) <= sys.float_info.max:
        raise BadRow(f"'{key}' is {described(value)}; expected a number")
    return float(value)


def from_json(text: str, where: str) -> Any:
    """Return what a JSON text says; `where` names it in the error."""
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRow(f"{where} is not JSON: {error}") from None
    except RecursionError:
        raise BadRow(f"{where} is nested too deeply to be read") from None


def present(row: Row) -> Row:
    """Return the row without the fields that are null, which is how tables write 'absent'."""
    return {key: value for key, value in row.items() if value is not None}


def described(value: object) -> str:
    """Return what a value is, for a message: its type, and the value where it is short."""
    names = {dict: "an object", list: "a list", str: "a text", type(None): "null"}
    name = names.get(type(value))
    return name if name is not None else repr(value)[:60]

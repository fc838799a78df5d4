"""JSON values, and what Python reads in silence though no row can mean it.

A key that is written twice would lose its first value; half of a surrogate pair, escaped without
the other, is no character, and no tokenizer takes it.
"""

import json
import re
from typing import Any

_ESCAPED_PAIR = re.compile(r"\\u[dD][89a-fA-F]")  # a whole pair, or half of one


class StrictDecoder:
    """Decodes JSON values one by one; `doubt` says what is wrong with the latest."""

    def __init__(self) -> None:
        self._twice: list[str] = []
        self._decoder = json.JSONDecoder(object_pairs_hook=self._object)

    def value_at(self, text: str, at: int) -> tuple[Any, int]:
        """Return the value that begins at a place, and where it ends; raises as `json.loads`."""
        self._twice.clear()
        return self._decoder.raw_decode(text, at)

    def whole(self, text: str) -> Any:
        """Return the value that a text is; raises as `json.loads`."""
        self._twice.clear()
        return self._decoder.decode(text)

    def doubt(self, value: Any, text: str, at: int, end: int) -> str:
        """Return what is wrong with the latest value, which text[at:end] says; mostly ''."""
        if self._twice:
            return f"the key {self._twice[0]!r} is written twice"
        if _ESCAPED_PAIR.search(text, at, end):
            try:
                json.dumps(value, ensure_ascii=False).encode()
            except UnicodeEncodeError as error:
                half = f"\\u{ord(error.object[error.start]):04x}"
                return f"{half} is half of a surrogate pair, and no character"
        return ""

    def _object(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            keys = [key for key, _ in pairs]
            self._twice.append(next(key for key in keys if keys.count(key) > 1))
        return found


def reason_of(error: Exception) -> str:
    """Return what is wrong with a JSON text, and in which column."""
    if isinstance(error, json.JSONDecodeError):
        return f"{error.msg} (column {error.colno})"
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return "a number with thousands of digits"  # what else the standard library refuses

"""A JSON text decoded from front to back through a window, so that it need not fit in memory."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from danlu.data.reading.opening import NOT_UTF8, not_utf8, read_chunks
from danlu.data.reading.problems import Problems
from danlu.data.reading.strict_json import StrictDecoder, reason_of

SPOILT = object()  # stands for a value of which something is a problem already

_NEAR_END = 16  # characters: an error this near the end of the window may be a cut value
_BLANK = " \t\r\n"


class NotJson(Exception):
    """What is wrong at which line."""

    def __init__(self, line: int, reason: str) -> None:
        super().__init__(reason)
        self.line = line


class Window:
    """A JSON text that is decoded from front to back, of which only a part is in memory."""

    def __init__(self, path: Path, problems: Problems) -> None:
        self.broken_off = False  # the bytes ended early, which is a problem already
        self._line = 1
        self._path, self._problems = path, problems
        self._chunks = self._decoded()
        self._decoder = StrictDecoder()
        self._text, self._at, self._counted = "", 0, 0

    def peek(self) -> str:
        """Return the next character that is not blank, an empty text at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in _BLANK:
                self._at += 1
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def values(self) -> Iterator[tuple[str, Any]]:
        """Yield (``file:line``, value) for each value up to the end of the file."""
        while self.peek():
            line, value = self.here(), self.value()
            if value is not SPOILT:
                yield f"{self._path}:{line}", value

    def items(self) -> Iterator[tuple[str, Any]]:
        """Yield (``file:line``, value) for each item of the list that begins here."""
        self._take("[")
        while self.peek() != "]":
            line, value = self.here(), self.value()
            if value is not SPOILT:
                yield f"{self._path}:{line}", value
            self._comma("]")
        self._take("]")

    def names(self) -> Iterator[str]:
        """Yield each key of the object that begins here; take its value before the next."""
        self._take("{")
        while self.peek() != "}":
            key = self.value()
            if not isinstance(key, str):
                raise NotJson(self.here(), "a key that is not a text")
            self._take(":")
            self.peek()
            yield key
            self._comma("}")
        self._take("}")

    def pass_by(self) -> bool:
        """Take the value that begins here; return whether it is a list of objects or texts."""
        if self.peek() != "[":
            self.value()
            return False
        return any([isinstance(item, dict | str) for _, item in self.items()])

    def value(self) -> Any:
        """Return the value that begins here; `SPOILT` if it cannot be meant."""
        self.peek()
        while True:
            try:
                value, end = self._decoder.value_at(self._text, self._at)
            except json.JSONDecodeError as error:
                near_end = error.pos >= len(self._text) - _NEAR_END
                if (near_end or error.msg.startswith("Unterminated")) and self._grow():
                    continue
                raise NotJson(self._line_at(error.pos), reason_of(error)) from None
            except (ValueError, RecursionError) as error:
                raise NotJson(self.here(), reason_of(error)) from None
            if end == len(self._text) and self._grow():
                continue  # a number may go on
            spoilt = NOT_UTF8.search(self._text, self._at, end) if self._has_wrong_bytes else None
            doubt = self._decoder.doubt(value, self._text, self._at, end)
            if doubt:
                self._problems.append(f"{self._path}:{self.here()}: {doubt}")
            self._at = end
            return SPOILT if spoilt or doubt else value

    def _comma(self, closing: str) -> None:
        if self.peek() == closing:
            return
        if self._text[self._at : self._at + 1] != ",":
            what = f"expected ',' or '{closing}' after an item"
            raise NotJson(self.here(), what)
        self._at += 1
        if self.peek() == closing:
            raise NotJson(self.here(), f"a comma before the closing '{closing}'")

    def _take(self, mark: str) -> None:
        found = self.peek()
        if found != mark:
            raise NotJson(self.here(), f"expected {mark!r}, found {found or 'the end'!r}")
        self._at += 1

    def here(self) -> int:
        """Return the line of what comes next."""
        self._line, self._counted = self._line_at(self._at), self._at
        return self._line

    def _line_at(self, position: int) -> int:
        return self._line + self._text.count("\n", self._counted, position)

    def _grow(self) -> bool:
        """Add to the window at least as much as is left in it; False at the end of the file."""
        self.here()
        rest = self._text[self._at :]
        added: list[str] = []
        while sum(map(len, added)) <= len(rest):
            chunk = next(self._chunks, None)
            if chunk is None:
                break
            added.append(chunk)
        self._text, self._at, self._counted = "".join([rest, *added]), 0, 0
        return bool(added)

    def _decoded(self) -> Iterator[str]:
        self._has_wrong_bytes = False
        decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        known = len(self._problems)
        offset, line = 0, 1
        for chunk in read_chunks(self._path, self._problems):
            text = decoder.decode(chunk)
            if not text.isascii() and NOT_UTF8.search(text):
                self._note_wrong_bytes(text, offset, line)
            offset, line = offset + len(chunk), line + chunk.count(b"\n")
            yield text
        self.broken_off = len(self._problems) > known and not self._has_wrong_bytes
        yield decoder.decode(b"", final=True)

    def _note_wrong_bytes(self, text: str, offset: int, line: int) -> None:
        self._has_wrong_bytes = True
        noted = 0
        for found in NOT_UTF8.finditer(text):
            number = line + text.count("\n", 0, found.start())
            if number != noted:
                before = len(text[: found.start()].encode("utf-8", "surrogateescape"))
                byte = ord(found.group()) - 0xDC00
                self._problems.append(not_utf8(self._path, number, offset + before, byte))
            noted = number

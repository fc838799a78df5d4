"""Invisible marks that follow message text through a chat template.

A template may trim, drop, reorder or quote what it is given. Unicode noncharacters put into the
messages come out where the text came out: one breaks every control token that a message spells, so
that those left in the output are the template's own; two enclose each content.
"""

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cache
from itertools import islice
from typing import Any

from danlu.errors import TokenizerError
from danlu.tokenizer.chat.chat_format import ContentSpan, ControlSpan, Message
from danlu.tokenizer.special import Splitter

_NONCHARACTERS = tuple(chr(code) for code in range(0xFDD0, 0xFDF0))
_ANY_NONCHARACTER = re.compile("[\ufdd0-\ufdef]")
_INDEX_BASE = 0x100000  # private-use characters that number the messages


@dataclass(frozen=True)
class Marks:
    """The characters in use.

    Attributes:
        broken: inside control strings.
        start, end: around contents, each followed by the number of the message.
        generated: around what a template says the assistant writes.
    """

    broken: str
    start: str
    end: str
    generated: str


@dataclass
class Unmarked:
    """A rendered text without its marks, and where they were (offsets in `text`)."""

    text: str = ""
    with_broken: str = ""  # the text with the `broken` marks still in
    starts: dict[int, int] = field(default_factory=dict)
    ends: dict[int, int] = field(default_factory=dict)
    generated: list[tuple[int, int]] = field(default_factory=list)


def choose_marks(values: Any) -> Marks:
    """Return noncharacters that nothing in `values` contains.

    Raises:
        TokenizerError: if there are not enough left.
    """
    used = set(_ANY_NONCHARACTER.findall(json.dumps(values, ensure_ascii=False, default=str)))
    free = list(islice((mark for mark in _NONCHARACTERS if mark not in used), len(fields(Marks))))
    if len(free) < len(fields(Marks)):
        raise TokenizerError("The messages contain all Unicode noncharacters U+FDD0 to U+FDEF.")
    return Marks(*free)


def break_controls(value: Any, marks: Marks, splitter: Splitter) -> Any:
    """Return a copy of nested messages or tools with every control string in them broken."""
    if isinstance(value, str):
        pieces = []
        position = 0
        for start in splitter.starts(value):
            pieces += [value[position : start + 1], marks.broken]
            position = start + 1
        return "".join([*pieces, value[position:]])
    if isinstance(value, Mapping):
        return {
            break_controls(key, marks, splitter): break_controls(item, marks, splitter)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [break_controls(item, marks, splitter) for item in value]
    return value


def enclose_contents(messages: Sequence[Message], marks: Marks) -> list[dict[str, Any]]:
    """Return the messages with marks around each content, inside its outer white space."""
    return [_enclose(dict(message), index, marks) for index, message in enumerate(messages)]


def _enclose(message: dict[str, Any], index: int, marks: Marks) -> dict[str, Any]:
    content = message.get("content")
    core = content.strip() if isinstance(content, str) else ""
    if core and isinstance(content, str):
        lead = content[: len(content) - len(content.lstrip())]
        tail = content[len(lead) + len(core) :]
        number = chr(_INDEX_BASE + index)
        message["content"] = f"{lead}{marks.start}{number}{core}{marks.end}{number}{tail}"
    return message


def unmark(marked: str, marks: Marks) -> Unmarked:
    """Take the marks out of a rendered text and note where they were."""
    found = Unmarked()
    text: list[str] = []
    with_broken: list[str] = []
    edges: list[int] = []
    position = length = 0
    for mark in _pattern(marks).finditer(marked):
        piece = marked[position : mark.start()]
        text.append(piece)
        with_broken.append(piece)
        length += len(piece)
        position = mark.end()
        if mark[0] == marks.broken:
            with_broken.append(marks.broken)
        elif mark[0] == marks.generated:
            edges.append(length)
        else:
            number = ord(mark[0][1:] or chr(_INDEX_BASE)) - _INDEX_BASE
            (found.starts if mark[0][0] == marks.start else found.ends)[number] = length
    found.text = "".join([*text, marked[position:]])
    found.with_broken = "".join([*with_broken, marked[position:]])
    found.generated = list(zip(edges[::2], edges[1::2], strict=False))
    return found


@cache
def _pattern(marks: Marks) -> re.Pattern[str]:
    return re.compile(f"[{marks.broken}{marks.generated}]|[{marks.start}{marks.end}].?", re.DOTALL)


def control_spans(found: Unmarked, marks: Marks, splitter: Splitter) -> list[ControlSpan]:
    """Return the control tokens that the template wrote, as spans of the unmarked text."""
    breaks = [mark.start() for mark in re.finditer(marks.broken, found.with_broken)]
    return [
        ControlSpan(
            part.start - bisect_left(breaks, part.start),
            part.end - bisect_left(breaks, part.end),
            part.token.token_id,
        )
        for part in splitter.split(found.with_broken)
        if part.token is not None
    ]


def content_spans(found: Unmarked, messages: Sequence[Message]) -> list[ContentSpan]:
    """Return where the contents are; a message that the template dropped has no span."""
    spans = []
    for index, message in enumerate(messages):
        core = (message.get("content") or "").strip()
        start, end = found.starts.get(index), found.ends.get(index)
        if start is None and end is None:
            continue
        if start is None and end is not None:  # the front was cut off: thinking, say
            start = end - _common_suffix(found.text[:end], core)
        elif end is None and start is not None:
            end = start + _common_prefix(found.text[start:], core)
        assert start is not None
        assert end is not None
        spans.append(ContentSpan(start, end, message["role"], index))
    return sorted(spans, key=lambda span: span.start)


def _common_prefix(a: str, b: str) -> int:
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))


def _common_suffix(a: str, b: str) -> int:
    return _common_prefix(a[::-1], b[::-1])

"""Conversations, preference pairs and labelled answers, read from any source.

A row is recognised by what it contains (`danlu/data/shapes`, one file per shape), or read as the
shape that `format:` names. What is an error, and what is not:

* Keys that no shape reads are notes of the data set, such as an id. They are named in one log
  message per source; one that is nearly a key of the shape (``sytem``) is an error.
* A null is as good as a missing field.
* Turns must be in order, none of them empty, the answer last: a question without an answer teaches
  nothing. `mend` puts chat logs in order instead, and says how many.
* A row with a judgement (``chosen``, ``sort``, a true-or-false ``label``) is no conversation to
  learn, since half of such rows must not be learned; `format:` may still read it as one.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from typing import Generic, Protocol, TypeVar, cast

from danlu.config.data import DataSource
from danlu.data.examples import USER, Conversation, LabelledAnswer, PreferencePair
from danlu.data.reading.locating import as_source
from danlu.data.reading.problems import Problems, raise_problems
from danlu.data.reading.rows import source_rows
from danlu.data.shaping.fields import BadRow, Row, described, present
from danlu.data.shaping.marked_calls import with_tool_calls
from danlu.data.shaping.shape import COMMON_KEYS, Example, Shape, keys_of_rows, named_shape, shapes
from danlu.data.shaping.turns import check_turns, mended
from danlu.errors import did_you_mean

_READERS: Mapping[type[Example], str] = {
    Conversation: "a conversation, for `danlu finetune`",
    PreferencePair: "a preference pair, for `danlu align`",
    LabelledAnswer: "a labelled answer, for `danlu align` with KTO",
}
_OTHER_NAMES = {"system_prompt": "system", "functions": "tools"}
_NO_SHAPE = "no known shape"
_MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_NEAR = 0.8  # how like a key of the shape a note must be to count as a slip of the pen

_E = TypeVar("_E", Conversation, PreferencePair, LabelledAnswer)
_log = logging.getLogger(__name__)


class Dropped(Protocol):
    """Takes the rows that are left out, each as ``file:line: why``."""

    def append(self, problem: str, /) -> None:
        """Add one."""


def read_conversations(
    source: Path | str | DataSource, dropped: Dropped | None = None
) -> Iterator[Conversation]:
    """Yield the conversations of a source, in order.

    Args:
        source: a file, a folder, `FILE:PART`, ``hub:OWNER/NAME``, or a `DataSource`.
        dropped: takes rows that are no conversation (a list will do), which the caller then must
            answer for; without it they are an error.

    Raises:
        DataError: at once if there is nothing to read; after the last good row, if any row or file
            is bad: all of them together, each with its ``file:line``.
        ConfigError: if `format` names no shape of a conversation.
        MissingExtraError: if the source needs the extra `data`.
    """
    return _read(source, Conversation, dropped)


def read_preferences(
    source: Path | str | DataSource, dropped: Dropped | None = None
) -> Iterator[PreferencePair]:
    """Yield the preference pairs of a source; arguments and errors as `read_conversations`."""
    return _read(source, PreferencePair, dropped)


def read_labelled(
    source: Path | str | DataSource, dropped: Dropped | None = None
) -> Iterator[LabelledAnswer]:
    """Yield the labelled answers of a source; arguments and errors as `read_conversations`."""
    return _read(source, LabelledAnswer, dropped)


def _read(
    source: Path | str | DataSource, gives: type[_E], dropped: Dropped | None
) -> Iterator[_E]:
    source = as_source(source)
    rows = _Rows(source, gives)
    problems = Problems()
    for origin, row in source_rows(source, problems, keys_of_rows() | source.columns.keys()):
        try:
            yield from rows.examples(row, origin)
        except BadRow as error:
            (problems if dropped is None else dropped).append(f"{origin}: {error}")
    rows.say_what_was_done(problems)
    raise_problems(problems, source.path, _expected(gives, problems))


def _refuse_media(row: Row) -> None:
    """Refuse a row whose answer is about something that a model of texts cannot see or hear."""
    found = [key for key in _MEDIA if row.get(key)]
    if found:
        raise BadRow(
            f"has {' and '.join(map(repr, found))}, which a model of texts does not get, so its "
            "answer would be learned without them"
        )


class _Rows(Generic[_E]):
    """Makes examples of the rows of one source, and remembers what it did not use or had to mend.

    Args:
        source: how they are to be read.
        gives: what they are to become.
    """

    def __init__(self, source: DataSource, gives: type[_E]) -> None:
        self._source = source
        self._gives: type[_E] = gives
        self._forced = named_shape(source.format, gives) if source.format else None
        self._notes: set[str] = set()
        self._renamed: set[str] = set()
        self._mended: list[str] = []
        self._num_mended = 0

    def examples(self, row: object, origin: str) -> list[_E]:
        """Return what a row gives; raises `BadRow` if it is bad."""
        if not isinstance(row, dict):
            raise BadRow(f"a row is {described(row)}, not an object")
        row = self._with_our_names(present(row))
        shape = self._forced or _recognised(row, self._gives)
        self._check_notes(row, shape)
        _refuse_media(row)
        return [self._checked(cast("_E", one)) for one in shape.read(row, origin)]

    def say_what_was_done(self, problems: Problems) -> None:
        """Log what was not used and what was mended; renamings of nothing are a problem."""
        path = self._source.path
        if self._notes:
            _log.info("Not used in '%s': %s", path, ", ".join(sorted(self._notes)))
        if self._num_mended:
            first = ", ".join(self._mended)
            _log.warning("Mended %d conversations of '%s', as %s", self._num_mended, path, first)
        for name in sorted(self._source.columns.keys() - self._renamed):
            hint = did_you_mean(name, self._notes)
            problems.append(f"{path}: columns names {name!r}, which no row has.{hint}")

    def _with_our_names(self, row: Row) -> Row:
        usual = {old: new for old, new in _OTHER_NAMES.items() if new not in row}
        columns = {**usual, **self._source.columns}
        clashing = [new for old, new in columns.items() if old in row and new in row]
        clashing = [name for name in clashing if name not in columns]
        if clashing:
            raise BadRow(f"columns gives the name {clashing[0]!r} to a key, but the row has it too")
        self._renamed |= row.keys() & columns.keys()
        return {columns.get(key, key): value for key, value in row.items()}

    def _check_notes(self, row: Row, shape: Shape) -> None:
        known = {*shape.keys, *COMMON_KEYS}
        for key in row.keys() - known - self._notes:
            near = get_close_matches(key, known - row.keys(), n=1, cutoff=_NEAR)
            if near:
                raise BadRow(f"unknown key {key!r}. Did you mean {near[0]!r}?")
            self._notes.add(key)

    def _checked(self, example: _E) -> _E:
        if isinstance(example, PreferencePair):
            check_turns(example.prompt, last=USER)
            check_turns([*example.prompt, *example.chosen])
            check_turns([*example.prompt, *example.rejected])
            if example.chosen == example.rejected:
                raise BadRow("'chosen' and 'rejected' are the same; there is nothing to prefer")
            return example
        if self._source.mend:
            messages = mended(example.messages)
            self._note_mended(messages != example.messages, example.origin)
            example = replace(example, messages=messages)
        if self._source.tool_marks:
            example = replace(example, messages=with_tool_calls(example.messages))
        check_turns(example.messages)
        return example

    def _note_mended(self, was_mended: bool, origin: str) -> None:
        self._num_mended += was_mended
        if was_mended and len(self._mended) < 3:
            self._mended.append(origin)


def _recognised(row: Row, gives: type[Example]) -> Shape:
    """Return the one shape of a row; a judged row is of no shape of a conversation."""
    found = {name: shape for name, shape in shapes().items() if shape.recognises(row)}
    judged = {name: shape for name, shape in found.items() if shape.gives is not Conversation}
    found = judged or found
    wanted = {name: shape for name, shape in found.items() if shape.gives is gives}
    if len(wanted) == 1:
        return next(iter(wanted.values()))
    if len(wanted) > 1:
        names = " or ".join(wanted)
        raise BadRow(f"it could be {names}; choose one with format. Its keys are {sorted(row)}")
    if found:
        shape = next(iter(found.values()))
        keys = ", ".join(key for key in row if key in shape.keys)
        as_labels = gives is LabelledAnswer and shape.gives is PreferencePair
        hint = "; pairs_as_labels: true reads it as two answers" if as_labels else ""
        raise BadRow(f"the row ({keys}) is {_READERS[shape.gives]}{hint}")
    if "text" in row:
        raise BadRow("the row is a plain text, for `danlu pretrain`")
    raise BadRow(f"{_NO_SHAPE}; its keys are {sorted(row)}.{_nearest_key(row, gives)}")


def _nearest_key(row: Row, gives: type[Example]) -> str:
    known = {key for shape in shapes().values() if shape.gives is gives for key in shape.keys}
    hints = ((key, did_you_mean(key, known)) for key in sorted(row.keys() - known))
    return next((f" About {key!r}:{hint}" for key, hint in hints if hint), "")


def _expected(gives: type[Example], problems: Iterable[str]) -> str:
    """Return what rows are to be like: every shape, if there is a row of none of them."""
    if not any(_NO_SHAPE in problem for problem in problems):
        return (
            "Expected whole files in UTF-8, and rows with a question and its answer, the turns in "
            "order. Fix or remove what is listed; where only turns are out of order, mend: true "
            "joins turns of one speaker and leaves out questions without an answer."
        )
    known = "".join(
        f"\n  {name}: {shape.summary}" for name, shape in shapes().items() if shape.gives is gives
    )
    return (
        f"Expected rows of one of these shapes (format: NAME forces one):{known}\n"
        "with an optional system message, then user and assistant in turn, the assistant last. "
        "Fix or remove what is listed; where only turns are out of order, mend: true joins turns "
        "of one speaker and leaves out questions without an answer."
    )

"""Calibration text: rows in any shape, drawn, rendered as the model sees them, and cut.

Conversations go through the chat format of the model, texts through its raw prompt; a long text may
give several rows. A folder with a ``quant.json`` (or another part of that name) is read for it, as
PaddleNLP does.
"""

import heapq
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import Any

from danlu.config.data import DataSource
from danlu.config.quantize.run import CalibrationData
from danlu.data.any_source import Example, read_examples
from danlu.data.examples import Document, PreferencePair
from danlu.data.ledger import Ledger
from danlu.data.mixing.holding_out import draw
from danlu.data.reading.locating import CALIBRATION, places_of
from danlu.data.unknown_text import UnknownCharacters
from danlu.errors import ChatFormatError, DanluError, DataError, bullet_list
from danlu.tokenizer import Tokenizer

MIN_TOKENS = 8  # of a row that a model can be watched on
SPARE = 2  # times as many rows are drawn, so that others replace those that cannot be used
MOSTLY = 0.5


@dataclass
class CalibrationLedger:
    """What became of every row and of its tokens.

    Attributes:
        rows: kept whole, cut or dropped, with the reason and ``file:line``.
        kept_tokens: in the rows.
        cut_tokens: of rows that are used in part.
        dropped_tokens: of rows that are not used, as far as they could be counted.
        not_drawn: rows that were read and not needed.
    """

    rows: Ledger = field(default_factory=Ledger)
    kept_tokens: int = 0
    cut_tokens: int = 0
    dropped_tokens: int = 0
    not_drawn: int = 0

    def summary(self) -> dict[str, Any]:
        """Return the ledger as plain JSON values."""
        counts = {
            "kept": self.kept_tokens,
            "cut": self.cut_tokens,
            "dropped": self.dropped_tokens,
        }
        return {**self.rows.summary(), "not_drawn": self.not_drawn, "tokens": counts}


class TokenRow(list[int]):
    """Token ids that know where they come from.

    Attributes:
        origin: ``file:line``.
    """

    def __init__(self, ids: Iterable[int], origin: str) -> None:
        super().__init__(ids)
        self.origin = origin


@dataclass(frozen=True)
class CalibrationRows:
    """Text to watch a model on.

    Attributes:
        rows: token ids.
        ledger: what became of the data.
    """

    rows: list[TokenRow]
    ledger: CalibrationLedger


@dataclass(frozen=True)
class _Encoded:
    """An example in tokens.

    Attributes:
        number: in the order of reading.
        origin: its ``file:line``.
        num_tokens: all of them.
        pieces: rows that can be taken of it, the first one first.
    """

    number: int
    origin: str
    num_tokens: int
    pieces: list[list[int]]


def read_calibration(
    data: CalibrationData, tokenizer: Tokenizer, seed: int, max_seq_len: int
) -> CalibrationRows:
    """Return the rows of a run's calibration data, in the order they were read.

    Args:
        data: its `sources`, which must be given, and limits.
        tokenizer: of the model.
        seed: decides which rows are drawn, where there are more than `data.samples`.
        max_seq_len: tokens that the model can see; rows are cut to it too.

    Raises:
        DataError: if there is nothing to read, rows are malformed or empty, or most of those drawn
            are too short or of characters that the tokenizer does not know.
        TokenizerError: if there are conversations, and no format to write them in.
    """
    assert data.sources is not None
    ledger = CalibrationLedger()
    drawn = _drawn(data, seed, ledger)
    texts = _Texts(tokenizer, min(data.max_tokens, max_seq_len), ledger)
    usable = (texts.encoded(number, example) for number, example in drawn)
    encoded = list(islice(filter(None, usable), data.samples))
    ledger.not_drawn += len(drawn) - len(encoded) - len(ledger.rows.dropped)
    _refuse_unusable(ledger, data.sources, len(encoded))
    encoded.sort(key=lambda each: each.number)
    return CalibrationRows(_chosen(encoded, data.samples, ledger), ledger)


def _drawn(
    data: CalibrationData, seed: int, ledger: CalibrationLedger
) -> list[tuple[int, Example]]:
    """Return examples with their numbers, in the order in which they are tried.

    The draw of an example depends on its content and the seed (arXiv:1012.0256: the smallest of
    exponential numbers, each divided by a weight, are a weighted sample).
    """
    numbers = count()

    def candidates() -> Iterator[tuple[float, int, Example]]:
        for source in map(calibration_part, data.sources or []):
            for example in read_examples(source, None):
                fate = -math.log(1 - draw(_content(example), seed)) / source.weight
                yield fate, next(numbers), example

    limit = data.samples * SPARE
    drawn = heapq.nsmallest(limit, candidates(), key=lambda each: each[:2])
    ledger.not_drawn = next(numbers) - len(drawn)
    return [(number, example) for _, number, example in drawn]


def calibration_part(source: DataSource) -> DataSource:
    """Return the part of a source that is meant for calibration, where a folder has one."""
    if source.split is not None or not Path(source.path).is_dir():
        return source
    part = source.model_copy(update={"split": CALIBRATION})
    try:
        return part if places_of(part) else source
    except DataError:
        return source


def _content(example: Example) -> str:
    if isinstance(example, Document):
        return example.text
    return json.dumps(_messages(example), sort_keys=True)


def _messages(example: Example) -> list[dict[str, Any]]:
    assert not isinstance(example, Document)
    if isinstance(example, PreferencePair):
        return [*example.prompt, *example.chosen]
    return example.messages


class _Texts:
    """Makes rows of examples; says in a ledger what is not used."""

    def __init__(self, tokenizer: Tokenizer, max_tokens: int, ledger: CalibrationLedger) -> None:
        self._tokenizer = tokenizer
        self._unknown = UnknownCharacters(tokenizer)
        self._max_tokens = max_tokens
        self._min_tokens = min(MIN_TOKENS, max_tokens)
        self._ledger = ledger

    def encoded(self, number: int, example: Example) -> _Encoded | None:
        """Return the rows that an example can give; None if it is of no use."""
        try:
            ids = self._ids(example)
        except ChatFormatError:  # no conversation can be written, so there is nothing to drop
            raise
        except DanluError as error:
            self._ledger.rows.drop(example.origin, str(error))
            return None
        problem = self._problem(ids)
        if problem:
            self._ledger.rows.drop(example.origin, problem)
            self._ledger.dropped_tokens += len(ids)
            return None
        size = self._max_tokens
        pieces = [ids[start : start + size] for start in range(0, len(ids), size)]
        usable = [piece for piece in pieces if len(piece) >= self._min_tokens]
        if not isinstance(example, Document):
            usable = usable[:1]  # what follows would begin in the middle of a turn
        return _Encoded(number, example.origin, len(ids), usable)

    def _ids(self, example: Example) -> list[int]:
        if isinstance(example, Document):
            return [*self._tokenizer.prompt_prefix(), *self._tokenizer.encode(example.text)]
        if self._tokenizer.chat_format is None:
            raise ChatFormatError(
                f"{example.origin} is a conversation, but the model has no chat template to write "
                'it with. Expected rows of text, as {"text": ...}, or a model with a template.'
            )
        rendered = self._tokenizer.render_chat(
            _messages(example), example.tools, add_generation_prompt=False
        )
        return list(rendered.ids)

    def _problem(self, ids: Sequence[int]) -> str:
        if len(ids) < self._min_tokens:
            return f"too short: {len(ids)} tokens, expected {self._min_tokens} or more"
        share = self._unknown.share(ids)
        if share > MOSTLY:
            return f"{share:.0%} of its characters have no token"
        return ""


def _refuse_unusable(ledger: CalibrationLedger, sources: Sequence[DataSource], used: int) -> None:
    """Refuse text of which most was dropped: it is not what was meant."""
    dropped = ledger.rows.dropped
    if used and len(dropped) <= used:
        return
    paths = ", ".join(f"'{source.path}'" for source in sources)
    rows = [f"{entry.origin}: {entry.reason}" for entry in dropped]
    raise DataError(
        f"{paths} cannot be calibrated on: {len(dropped)} of {used + len(dropped)} rows are of no "
        f"use.{bullet_list(rows)}\nExpected texts or conversations of {MIN_TOKENS} tokens or more, "
        "in a language that the tokenizer of this model knows; rows like those it will be used on."
    )


def _chosen(encoded: Sequence[_Encoded], samples: int, ledger: CalibrationLedger) -> list[TokenRow]:
    """Return the first row of each example, and further ones as long as rows are wanted.

    What is not taken counts as cut.
    """
    taken = [1] * len(encoded)
    rest = samples - len(encoded)
    for depth in range(1, max((len(each.pieces) for each in encoded), default=0)):
        for place, each in enumerate(encoded):
            if rest > 0 and depth < len(each.pieces):
                taken[place], rest = depth + 1, rest - 1
    chosen = []
    for each, number in zip(encoded, taken, strict=True):
        rows = each.pieces[:number]
        kept = sum(map(len, rows))
        ledger.kept_tokens += kept
        ledger.cut_tokens += each.num_tokens - kept
        cut = "" if kept == each.num_tokens else f"{kept} of {each.num_tokens} tokens are used"
        ledger.rows.note(each.origin, cut, is_dropped=False)
        chosen += [TokenRow(row, each.origin) for row in rows]
    return chosen

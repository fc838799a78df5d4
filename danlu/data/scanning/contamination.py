"""Which rows of a training set hold items of an evaluation set, told by runs of common words.

A run of `ngram` units (13 words or Chinese characters; GPT-3, arXiv:2005.14165, appendix C) that
both have is an overlap. An item that is shorter is looked for as a whole: its question, and all its
texts in a row. Runs that tell too little (numbers, the letters of choices) are not looked for, and
short items that tell too little must be a whole text of the row.

The evaluation set is held as hashes, the training set is streamed through: memory grows with the
evaluation set alone.
"""

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from danlu.data.scanning.row_texts import RowText, RowTexts
from danlu.data.scanning.runs import Ids, RunTable, Vocabulary, hashes_of, rolling_hashes
from danlu.data.scanning.text_units import units_of
from danlu.errors import ConfigError

NGRAM = 13
MIN_INFORMATION = 4.0  # of a run, and of a short item that may stand inside a longer text
MIN_WHOLE_UNITS = 3  # of a short item that must be a whole text
REPEATED = 3  # what so many rows of one file have is an instruction or a choice, not a question
QUESTION_KEYS = frozenset(
    ("question", "problem", "prompt", "instruction", "input", "query", "text", "src", "turns")
)


@dataclass(frozen=True)
class Item:
    """A row of an evaluation set: its units as numbers, and how many runs are looked for."""

    origin: str
    ids: Ids
    num_runs: int


@dataclass(frozen=True)
class Overlap:
    """What a training row and an evaluation item have in common.

    Attributes:
        row: the training row, as ``file:line``.
        item: the evaluation row, likewise.
        share: the part of the item's runs that the row has; 1 for an item found as a whole.
        text: the longest common run, normalised.
        is_whole: was it a short item, found as a whole?
    """

    row: str
    item: str
    share: float
    text: str
    is_whole: bool


@dataclass(frozen=True)
class _Short:
    """A text that is shorter than a run, and the item it is of."""

    item: int
    ids: Ids


class EvaluationIndex:
    """The items of evaluation sets, ready to be found in training rows.

    Attributes:
        ngram: units in a run.
        items: every row of the evaluation sets, in order.
    """

    def __init__(self, rows: Iterable[RowTexts], ngram: int = NGRAM) -> None:
        """Read the evaluation rows and hash them.

        Raises:
            ConfigError: if `ngram` is less than 2.
        """
        if ngram < 2:
            raise ConfigError(f"ngram is {ngram}; expected 2 or more, usually {NGRAM}.")
        self.ngram = ngram
        self.items: list[Item] = []
        self._vocabulary = Vocabulary()
        self._tables: dict[int, RunTable] = defaultdict(RunTable)
        self._exact: dict[bytes, list[int]] = defaultdict(list)
        self._shorts = [short for row in rows for short in self._added(row)]
        self._add_shorts()

    def overlaps(self, row: RowTexts) -> list[Overlap]:
        """Return what a training row has in common with the items, the largest share first."""
        texts = [self._vocabulary.known(units_of(text)) for _, text in row.texts]
        ids = _in_a_row(texts)
        whole = {short for text in texts for short in self._exact.get(text.tobytes(), ())}
        runs: dict[int, set[int]] = defaultdict(set)
        for length, hashes in rolling_hashes(ids, self.ngram):
            if length in self._tables:
                for found, place in self._tables[length].matches(hashes):
                    if length < self.ngram:
                        whole.add(place)
                    else:
                        runs[found].add(place)
        common = [self._whole(row.origin, self._shorts[short]) for short in sorted(whole)]
        common += [self._common(row.origin, self.items[item], at) for item, at in runs.items()]
        first = {one.item: one for one in reversed(common)}  # as a whole, where it is both
        return sorted(first.values(), key=lambda one: -one.share)

    def _added(self, row: RowTexts) -> list[_Short]:
        """Hash the runs of an evaluation row; return its texts that are too short for one."""
        texts = [self._vocabulary.add(units_of(text)) for _, text in row.texts]
        ids, number = _in_a_row(texts), len(self.items)
        num_runs = 0
        if len(ids) >= self.ngram:
            told = self._vocabulary.information(ids, self.ngram)
            places = np.flatnonzero(told >= min(MIN_INFORMATION, self.ngram / 2))
            num_runs = len(places)
            if num_runs:
                hashes = hashes_of(ids, self.ngram)[places]
                self._tables[self.ngram].add(hashes, number, places.astype(np.int32))
        self.items.append(Item(row.origin, ids, num_runs))
        shorts = {text.tobytes(): text for text in (ids, *_questions(row.texts, texts))}
        return [_Short(number, s) for s in shorts.values() if 0 < len(s) < self.ngram]

    def _add_shorts(self) -> None:
        """Hash the short texts that are no common phrase of their evaluation set."""
        times = Counter((self._file(short), short.ids.tobytes()) for short in self._shorts)
        for number, short in enumerate(self._shorts):
            length = len(short.ids)
            if times[self._file(short), short.ids.tobytes()] >= REPEATED:
                continue
            if self._vocabulary.information(short.ids, length)[0] >= MIN_INFORMATION:
                self._tables[length].add(hashes_of(short.ids, length), short.item, [number])
            elif length >= MIN_WHOLE_UNITS:
                self._exact[short.ids.tobytes()].append(number)

    def _file(self, short: _Short) -> str:
        return self.items[short.item].origin.rpartition(":")[0]

    def _whole(self, origin: str, short: _Short) -> Overlap:
        text = self._vocabulary.text(short.ids)
        return Overlap(origin, self.items[short.item].origin, 1.0, text, is_whole=True)

    def _common(self, origin: str, item: Item, places: set[int]) -> Overlap:
        start, length = _longest_run(sorted(places))
        text = self._vocabulary.text(item.ids[start : start + length + self.ngram - 1])
        share = len(places) / item.num_runs
        return Overlap(origin, item.origin, share, text, is_whole=False)


def _in_a_row(texts: list[Ids]) -> Ids:
    return np.concatenate(texts) if texts else np.empty(0, np.int32)


def _questions(texts: list[RowText], ids: list[Ids]) -> list[Ids]:
    """Return what a row asks: the texts under `QUESTION_KEYS`, else the longest one."""
    asked = [at for at, (key, _) in enumerate(texts) if key.lower() in QUESTION_KEYS]
    longest = sorted(range(len(ids)), key=lambda at: -len(ids[at]))[:1]
    return [ids[at] for at in asked or longest]


def _longest_run(places: list[int]) -> tuple[int, int]:
    """Return the start and the number of the most neighbours among sorted places."""
    best = (places[0], 1)
    start = places[0]
    for before, place in pairwise(places):
        start = start if place == before + 1 else place
        best = max(best, (start, place - start + 1), key=lambda run: run[1])
    return best

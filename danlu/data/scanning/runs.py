"""Runs of units as 64-bit hashes: numbered units, rolling hashes, and a table to look them up."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from danlu.data.scanning.text_units import information_of, joined

Ids = npt.NDArray[np.int32]
Hashes = npt.NDArray[np.uint64]

_FACTOR = np.uint64(0x9E3779B97F4A7C15)  # odd: multiplying by it loses nothing modulo 2**64
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


class Vocabulary:
    """Numbers for units, from 1; 0 is every unit that was never added."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}
        self._units: list[str] = [""]
        self._information: list[float] = [0.0]

    def add(self, units: Sequence[str]) -> Ids:
        """Return the numbers of units; new ones get one."""
        for unit in units:
            if unit not in self._numbers:
                self._numbers[unit] = len(self._units)
                self._units.append(unit)
                self._information.append(information_of(unit))
        return self.known(units)

    def known(self, units: Sequence[str]) -> Ids:
        """Return the numbers of units, 0 for those never added."""
        get = self._numbers.get
        return np.fromiter((get(unit, 0) for unit in units), np.int32, len(units))

    def text(self, ids: Ids) -> str:
        """Return numbered units as a text."""
        return joined([self._units[number] for number in ids.tolist()])

    def information(self, ids: Ids, length: int) -> npt.NDArray[np.float64]:
        """Return how much each run of `length` units tells."""
        told = np.array([self._information[number] for number in ids.tolist()])
        total = np.concatenate([[0.0], np.cumsum(told)])
        return np.asarray(total[length:] - total[:-length])


def rolling_hashes(ids: Ids, longest: int) -> Iterator[tuple[int, Hashes]]:
    """Yield (length, the hash of each run of so many units) for each length up to `longest`."""
    values = _values(ids)
    hashes = values
    for length in range(1, min(longest, len(ids)) + 1):
        if length > 1:
            hashes = hashes[:-1] * _FACTOR + values[length - 1 :]
        yield length, hashes


def hashes_of(ids: Ids, length: int) -> Hashes:
    """Return the hash of each run of `length` units; there must be so many."""
    return dict(rolling_hashes(ids, length))[length]


def _values(ids: Ids) -> Hashes:
    """Return a number of 64 bits for each unit (splitmix64; Steele et al., OOPSLA 2014)."""
    value = ids.astype(np.uint64) * _FACTOR
    for shift, factor in zip((30, 27), _MIX, strict=True):
        value = (value ^ (value >> np.uint64(shift))) * factor
    return np.asarray(value ^ (value >> np.uint64(31)))


class RunTable:
    """Hashes, each with the item that has it and a place in the item; an item may have several."""

    def __init__(self) -> None:
        self._added: list[tuple[Hashes, Ids, Ids]] = []
        self._sorted: _Sorted | None = None

    def add(self, hashes: Hashes, item: int, places: Sequence[int] | Ids) -> None:
        """Add runs of an item, all before the first `matches`."""
        items = np.full(len(hashes), item, np.int32)
        self._added.append((hashes, items, np.asarray(places, np.int32)))

    def matches(self, hashes: Hashes) -> list[tuple[int, int]]:
        """Return (item, place) for everything that has one of the hashes."""
        if self._sorted is None:
            self._sorted, self._added = _Sorted.of(self._added), []
        return self._sorted.matches(hashes)


@dataclass(frozen=True)
class _Sorted:
    """A table in the order of its hashes, and which of their first bits there are at all."""

    hashes: Hashes
    items: Ids
    places: Ids
    shift: np.uint64
    is_there: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, added: list[tuple[Hashes, Ids, Ids]]) -> "_Sorted":
        hashes, items, places = (np.concatenate(part) for part in zip(*added, strict=True))
        order = np.argsort(hashes, kind="stable")
        bits = len(hashes).bit_length() + 4  # one in sixteen passes by chance
        is_there, shift = np.zeros(1 << bits, np.bool_), np.uint64(64 - bits)
        is_there[hashes >> shift] = True
        return cls(hashes[order], items[order], places[order], shift, is_there)

    def matches(self, hashes: Hashes) -> list[tuple[int, int]]:
        near = hashes[self.is_there[hashes >> self.shift]]
        if not len(near):
            return []
        begin = self.hashes.searchsorted(near)
        known = self.hashes[np.minimum(begin, len(self.hashes) - 1)] == near
        if not known.any():
            return []
        wanted = np.unique(near[known])
        begin = np.searchsorted(self.hashes, wanted)
        end = np.searchsorted(self.hashes, wanted, side="right")
        at = [place for a, b in zip(begin, end, strict=True) for place in range(a, b)]
        return list(zip(self.items[at].tolist(), self.places[at].tolist(), strict=True))

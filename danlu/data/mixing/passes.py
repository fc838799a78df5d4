"""Passes over the data: the rows of each, made when it begins and the same whenever it is made."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from danlu.data.documents import Documents, Numbers
from danlu.data.mixing.mixture import Mixture
from danlu.data.packing import PackedRow, PackedRows, cut_documents, pack_pieces, single_rows
from danlu.errors import DataError

Arrange = Callable[[Documents, Numbers, int, int], PackedRows]


class Passes(Protocol):
    """Endless passes over some data, numbered from 0."""

    def rows(self, number: int) -> Sequence[PackedRow]:
        """Return the rows of a pass, at least one; the same each time."""

    def lengths(self, number: int) -> Sequence[int]:
        """Return the tokens of each row of a pass."""

    def state(self) -> dict[str, Any]:
        """Return what the passes so far have found out, as plain JSON."""

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""


class SamePasses:
    """The same rows in every pass."""

    def __init__(self, rows: Sequence[PackedRow]) -> None:
        if not len(rows):
            raise DataError("There is no row to train on; expected at least one. Check the data.")
        self._rows = rows

    def rows(self, number: int) -> Sequence[PackedRow]:
        """Return the rows."""
        return self._rows

    def lengths(self, number: int) -> Sequence[int]:
        """Return the tokens of each row."""
        if isinstance(self._rows, PackedRows):
            lengths: list[int] = self._rows.lengths.tolist()
            return lengths
        return [row.num_tokens for row in self._rows]

    def state(self) -> dict[str, Any]:
        """Return nothing: all is known from the start."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


class MixedPasses:
    """Passes over a mixture; where it differs from pass to pass, so do the rows.

    Args:
        documents: all documents.
        mixture: which of them each pass has.
        arrange: makes rows of them, `packed` or `alone`.
        max_seq_len: tokens of the longest row.
        seed: of the packing.
    """

    def __init__(
        self,
        documents: Documents,
        mixture: Mixture,
        arrange: Arrange,
        max_seq_len: int,
        seed: int,
    ) -> None:
        self._documents = documents
        self._mixture = mixture
        self._arrange = arrange
        self._max_seq_len = max_seq_len
        self._seed = seed
        self._made: tuple[int, PackedRows] | None = None

    def rows(self, number: int) -> PackedRows:
        """Return the rows of a pass."""
        number = 0 if self._mixture.is_fixed else number
        if self._made is None or self._made[0] != number:
            chosen = self._mixture.of_pass(number)
            rows = self._arrange(self._documents, chosen, self._max_seq_len, self._seed)
            self._made = (number, rows)
        return self._made[1]

    def lengths(self, number: int) -> Sequence[int]:
        """Return the tokens of each row of a pass."""
        lengths: list[int] = self.rows(number).lengths.tolist()
        return lengths

    def state(self) -> dict[str, Any]:
        """Return nothing: all is known from the start."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Do nothing."""


def packed(documents: Documents, chosen: Numbers, max_seq_len: int, seed: int) -> PackedRows:
    """Return rows that documents share, best fit; longer documents are cut into pieces."""
    pieces = cut_documents(chosen, documents.lengths, max_seq_len)
    return pack_pieces(documents, pieces, max_seq_len, seed)


def alone(documents: Documents, chosen: Numbers, max_seq_len: int, seed: int) -> PackedRows:
    """Return a row for each document, or for each piece of a longer one."""
    return single_rows(documents, cut_documents(chosen, documents.lengths, max_seq_len))


def rows_in(passes: Passes, number: float) -> float:
    """Return how many rows `number` passes have; of a last part, as many as it is of its pass."""
    counts = [len(passes.rows(each)) for each in range(math.ceil(number))]
    if len(set(counts)) == 1:
        return number * counts[0]
    return sum(counts[:-1]) + (number - len(counts) + 1) * counts[-1]

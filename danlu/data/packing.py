"""Packing documents into rows of bounded length.

Packing is best-fit decreasing (Johnson et al. 1974): the longest documents first, each into the row
with the least room that still takes it. Documents of one length are taken in a seeded order. It is
planned on lengths alone, so documents may stay on the disk until their row is asked for.
"""

import random
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import overload

import numpy as np
from numpy.typing import ArrayLike

from danlu.data.documents import IGNORE, DocumentList, Documents, Numbers, Pieces, TokenDocument
from danlu.errors import DataError, bullet_list

__all__ = [
    "IGNORE",
    "PackedRow",
    "PackedRows",
    "Pieces",
    "TokenDocument",
    "cut_documents",
    "pack",
    "pack_pieces",
    "single_rows",
]


@dataclass(frozen=True)
class PackedRow:
    """Documents that lie one after the other in a row of a batch."""

    documents: list[TokenDocument]

    @property
    def num_tokens(self) -> int:
        """Tokens of all documents together."""
        return sum(len(document.ids) for document in self.documents)

    @property
    def num_targets(self) -> int | float:
        """Tokens of the row that are learned, or the sum of their weights."""
        return sum(document.num_targets for document in self.documents)


class PackedRows(Sequence[PackedRow]):
    """Rows of documents; a row is put together when it is asked for.

    Attributes:
        lengths: tokens of each row.
        pieces: what the rows hold, one after the other.

    Args:
        documents: what the pieces are parts of.
        pieces: the parts, in the order of the rows.
        ends: per row, how many pieces it and those before it hold.
    """

    def __init__(self, documents: Documents, pieces: Pieces, ends: ArrayLike) -> None:
        self.pieces = pieces
        self._documents = documents
        self._ends: Numbers = np.asarray(ends, np.int64)
        tokens = np.concatenate([[0], np.cumsum(pieces.length)])
        self.lengths: Numbers = np.diff(tokens[np.concatenate([[0], self._ends])])

    @property
    def num_targets(self) -> int | float:
        """Tokens of all rows that are learned, or the sum of their weights."""
        return self._documents.count_targets(self.pieces)

    def __len__(self) -> int:
        return len(self._ends)

    @overload
    def __getitem__(self, index: int) -> PackedRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[PackedRow]: ...
    def __getitem__(self, index: int | slice) -> PackedRow | list[PackedRow]:
        """Return a row, or a list of rows."""
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        number = range(len(self))[index]
        first = int(self._ends[number - 1]) if number else 0
        row = self.pieces.taken(np.arange(first, self._ends[number]))
        return PackedRow(
            [
                self._documents[document].part(start, start + length)
                for document, start, length in zip(*(p.tolist() for p in row), strict=True)
            ]
        )


def pack(documents: Sequence[TokenDocument], max_seq_len: int, seed: int = 0) -> PackedRows:
    """Pack documents into rows of at most `max_seq_len` tokens; every token is in exactly one row.

    Longer documents without labels are split (pre-training). Empty documents have no tokens and
    take no part. The same input gives the same rows. Takes O(n log n) time.

    Raises:
        DataError: if `max_seq_len` is not positive, or a document with labels is longer.
    """
    too_long = [
        f"{document.origin}: {len(document.ids)} tokens, more than max_seq_len {max_seq_len}"
        for document in documents
        if document.labels is not None and len(document.ids) > max_seq_len
    ]
    if max_seq_len < 1:
        raise DataError(f"max_seq_len is {max_seq_len}; expected at least 1.")
    if too_long:
        raise DataError(
            f"{len(too_long)} documents are too long:{bullet_list(too_long)}\n"
            "Raise max_seq_len, or shorten or leave out these rows."
        )
    listed = DocumentList(documents)
    pieces = cut_documents(np.arange(len(documents)), listed.lengths, max_seq_len)
    return pack_pieces(listed, pieces, max_seq_len, seed)


def cut_documents(chosen: Numbers, lengths: Numbers, max_seq_len: int) -> Pieces:
    """Return the chosen documents as consecutive pieces of at most `max_seq_len` tokens.

    Args:
        chosen: numbers of documents, in order; one may come more than once.
        lengths: tokens of every document.
        max_seq_len: tokens of the longest piece.
    """
    sizes = np.asarray(lengths, np.int64)[chosen]
    counts = -(-sizes // max_seq_len)
    firsts = np.cumsum(counts) - counts
    starts = (np.arange(counts.sum()) - np.repeat(firsts, counts)) * max_seq_len
    left = np.repeat(sizes, counts) - starts
    return Pieces(np.repeat(chosen, counts), starts, np.minimum(left, max_seq_len))


def pack_pieces(documents: Documents, pieces: Pieces, max_seq_len: int, seed: int) -> PackedRows:
    """Return rows of at most `max_seq_len` tokens that hold every piece once, best fit."""
    shuffled = list(range(len(pieces.length)))
    random.Random(f"packing:{seed}").shuffle(shuffled)
    order = np.array(shuffled, np.int64)
    # stable: equal lengths stay shuffled
    order = order[np.argsort(-pieces.length[order], kind="stable")]
    rows = _best_fit(pieces.length[order].tolist(), max_seq_len)
    ends = np.cumsum([len(row) for row in rows])
    placed = np.array([number for row in rows for number in row], np.int64)
    return PackedRows(documents, pieces.taken(order[placed]), ends)


def single_rows(documents: Documents, pieces: Pieces) -> PackedRows:
    """Return every piece as a row of its own, in the given order."""
    return PackedRows(documents, pieces, np.arange(1, len(pieces.length) + 1))


def _best_fit(lengths: list[int], capacity: int) -> list[list[int]]:
    """Return the numbers of the lengths that go into each row."""
    rows: list[list[int]] = []
    rooms: list[int] = []  # the different free sizes, sorted; at most `capacity` of them
    rows_with_room: dict[int, list[int]] = defaultdict(list)
    for number, need in enumerate(lengths):
        at = bisect_left(rooms, need)
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                del rooms[at]
        rows[row].append(number)
        left = room - need
        if left and not rows_with_room[left]:
            insort(rooms, left)
        if left:
            rows_with_room[left].append(row)
    return rows

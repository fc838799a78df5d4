"""Token documents: what is learned of a text or conversation, and many of them by their number."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.errors import DataError

Ids = NDArray[np.int32]
Weights = NDArray[np.float32]
Numbers = NDArray[np.int64]

IGNORE = -100  # the label of a token that is not learned


class TokenDocument:
    """The tokens of one document, attended to and counted on their own.

    Attributes:
        ids: token ids, int32.
        labels: per token, the id to learn at its place (as the target of the token before it),
            `IGNORE` where nothing is learned; None: the ids themselves, all of them.
        weights: per token, how much learning it counts, float32; None: 1 everywhere.
        origin: where it comes from, as ``file:line``.

    Raises:
        DataError: if labels or weights are not as many as the ids.
    """

    __slots__ = ("ids", "labels", "origin", "weights")

    def __init__(
        self,
        ids: ArrayLike,
        labels: ArrayLike | None = None,
        weights: ArrayLike | None = None,
        origin: str = "",
    ) -> None:
        self.ids: Ids = np.asarray(ids, np.int32)
        self.labels: Ids | None = None if labels is None else np.asarray(labels, np.int32)
        self.weights: Weights | None = None if weights is None else np.asarray(weights, np.float32)
        self.origin = origin
        for name, values in (("labels", self.labels), ("weights", self.weights)):
            if values is not None and len(values) != len(self.ids):
                raise DataError(
                    f"{origin}: {len(self.ids)} tokens have {len(values)} {name}; "
                    "expected one for each token."
                )

    @property
    def num_targets(self) -> int | float:
        """How many tokens are learned, or the sum of their weights.

        The first one never is, as nothing comes before it.
        """
        labels = self.ids if self.labels is None else self.labels
        learned = labels[1:] != IGNORE
        if self.weights is not None:
            return float(self.weights[1:].sum(dtype=np.float64, where=learned))
        return int(np.count_nonzero(learned))

    def part(self, start: int, end: int) -> "TokenDocument":
        """Return tokens `start` to `end` as a document of their own."""
        if start == 0 and end >= len(self.ids):
            return self
        labels = None if self.labels is None else self.labels[start:end]
        weights = None if self.weights is None else self.weights[start:end]
        return TokenDocument(self.ids[start:end], labels, weights, self.origin)


class Pieces(NamedTuple):
    """Parts of documents, none longer than a row: three int64 arrays [P]."""

    document: Numbers
    start: Numbers
    length: Numbers

    def taken(self, order: Numbers) -> "Pieces":
        """Return the pieces with these numbers."""
        return Pieces(self.document[order], self.start[order], self.length[order])


class Documents(Protocol):
    """Documents by their number, with what is asked of all of them at once."""

    @property
    def lengths(self) -> Numbers:
        """Tokens of each document."""

    def __getitem__(self, number: int) -> TokenDocument:
        """Return a document."""

    def count_targets(self, pieces: Pieces) -> int | float:
        """Return how many tokens are learned in all pieces together, or their weight."""


class DocumentList:
    """Documents in memory."""

    def __init__(self, documents: Sequence[TokenDocument]) -> None:
        self._documents = documents
        self.lengths: Numbers = np.array([len(each.ids) for each in documents], np.int64)

    def __getitem__(self, number: int) -> TokenDocument:
        return self._documents[number]

    def count_targets(self, pieces: Pieces) -> int | float:
        """Return how many tokens are learned in all pieces together, or their weight."""
        parts = zip(*(part.tolist() for part in pieces), strict=True)
        return sum(self[n].part(start, start + length).num_targets for n, start, length in parts)

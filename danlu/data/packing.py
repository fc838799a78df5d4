"""Token documents, what to do with long ones, and packing them into rows of bounded length.

Packing is best-fit decreasing (Johnson et al. 1974): the longest documents first, each into the row
with the least room that still takes it. Documents of one length are taken in a seeded order.
"""

import random
from bisect import bisect_left, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from danlu.data.ledger import Ledger
from danlu.errors import DataError, bullet_list

LongPolicy = Literal["split", "truncate", "drop", "error"]
Ids = NDArray[np.int32]
Weights = NDArray[np.float32]

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
        labels = None if self.labels is None else self.labels[start:end]
        weights = None if self.weights is None else self.weights[start:end]
        return TokenDocument(self.ids[start:end], labels, weights, self.origin)


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


def split_document(document: TokenDocument, max_seq_len: int) -> list[TokenDocument]:
    """Return consecutive pieces of at most `max_seq_len` tokens, each a document of its own."""
    starts = range(0, len(document.ids), max_seq_len)
    return [document.part(start, start + max_seq_len) for start in starts]


def fit_documents(
    documents: Iterable[TokenDocument], max_seq_len: int, policy: LongPolicy, ledger: Ledger
) -> list[TokenDocument]:
    """Return documents that fit into `max_seq_len` and have something to learn; fill the ledger.

    Args:
        documents: in any order, which is kept.
        max_seq_len: tokens of the longest row.
        policy: for longer documents: "split" into pieces (pre-training), "truncate" at the end,
            "drop", or "error".
        ledger: notes every document as kept, truncated or dropped.

    Raises:
        DataError: with the policy "error", if documents are too long; lists them all.
    """
    fitted: list[TokenDocument] = []
    too_long: list[str] = []
    for document in documents:
        num_tokens = len(document.ids)
        reason = f"{num_tokens} tokens, more than max_seq_len {max_seq_len}"
        if document.num_targets == 0:
            ledger.drop(document.origin, "no token to learn")
        elif num_tokens <= max_seq_len or policy == "split":
            ledger.keep()
            fitted.extend(split_document(document, max_seq_len))
        elif policy == "error":
            too_long.append(f"{document.origin}: {reason}")
        elif policy == "drop":
            ledger.drop(document.origin, reason)
        else:
            fitted.extend(_truncated(document, max_seq_len, reason, ledger))
    _refuse_long(too_long)
    return fitted


def _truncated(
    document: TokenDocument, max_seq_len: int, reason: str, ledger: Ledger
) -> Iterator[TokenDocument]:
    """Yield the beginning of the document, if something to learn is left in it."""
    beginning = document.part(0, max_seq_len)
    if beginning.num_targets == 0:
        ledger.drop(document.origin, f"{reason}; nothing to learn would be left")
    else:
        ledger.truncate(document.origin, reason)
        yield beginning


def _refuse_long(too_long: list[str]) -> None:
    if too_long:
        raise DataError(
            f"{len(too_long)} documents are too long:{bullet_list(too_long)}\n"
            "Raise max_seq_len, shorten these rows, or choose to truncate or drop them."
        )


def pack(documents: Sequence[TokenDocument], max_seq_len: int, seed: int = 0) -> list[PackedRow]:
    """Pack documents into rows of at most `max_seq_len` tokens; every token is in exactly one row.

    Longer documents without labels are split (pre-training); `fit_documents` offers other policies.
    Empty documents have no tokens and take no part. The same input gives the same rows. Takes
    O(n log n) time.

    Raises:
        DataError: if `max_seq_len` is not positive, or a document with labels is longer.
    """
    if max_seq_len < 1:
        raise DataError(f"max_seq_len is {max_seq_len}; expected at least 1.")
    _refuse_long(
        [
            f"{document.origin}: {len(document.ids)} tokens, more than max_seq_len {max_seq_len}"
            for document in documents
            if document.labels is not None and len(document.ids) > max_seq_len
        ]
    )
    pieces = [piece for document in documents for piece in split_document(document, max_seq_len)]
    random.Random(f"packing:{seed}").shuffle(pieces)
    pieces.sort(key=lambda piece: -len(piece.ids))  # stable: equal lengths stay shuffled
    return [PackedRow(row) for row in _best_fit(pieces, max_seq_len)]


def _best_fit(pieces: list[TokenDocument], capacity: int) -> list[list[TokenDocument]]:
    rows: list[list[TokenDocument]] = []
    rooms: list[int] = []  # the different free sizes, sorted; at most `capacity` of them
    rows_with_room: dict[int, list[int]] = defaultdict(list)
    for piece in pieces:
        need = len(piece.ids)
        at = bisect_left(rooms, need)
        if at == len(rooms):
            row, room = len(rows), capacity
            rows.append([])
        else:
            room = rooms[at]
            row = rows_with_room[room].pop()
            if not rows_with_room[room]:
                del rooms[at]
        rows[row].append(piece)
        left = room - need
        if left and not rows_with_room[left]:
            insort(rooms, left)
        if left:
            rows_with_room[left].append(row)
    return rows

"""What is learned and what is only evaluated on: documents of stores, split by their content."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from danlu.data.documents import Numbers
from danlu.data.encoded.built_corpus import draws_for
from danlu.data.encoded.store import ArrayStore
from danlu.data.encoded.stored import StoredDocuments
from danlu.data.ledger import Ledger
from danlu.data.mixing.holding_out import held_out_limit


@dataclass(frozen=True)
class Side:
    """Documents of some stores.

    Attributes:
        documents: all documents of all stores.
        numbers: per store, the numbers of those on this side.
        ledger: what became of the examples of this side.
    """

    documents: StoredDocuments
    numbers: list[Numbers]
    ledger: Ledger

    @property
    def all_numbers(self) -> Numbers:
        """The numbers of all documents of this side, store after store."""
        return np.concatenate([np.empty(0, np.int64), *self.numbers])


def whole_side(stores: Sequence[ArrayStore]) -> Side:
    """Return all documents of the stores."""
    return split_sides(stores, 0.0, seed=0)[0]


def split_sides(stores: Sequence[ArrayStore], fraction: float, seed: int) -> tuple[Side, Side]:
    """Return the documents to learn and those held out.

    Args:
        stores: of encoders that drew a number for each document, for this seed.
        fraction: about which share is held out; 0: nothing.
        seed: another seed draws another share.

    Raises:
        DataError: if fewer than two different documents are to be split.
    """
    documents = StoredDocuments(stores)
    draws = [draws_for(store, seed) for store in stores]
    limit = _limit(stores, draws, fraction) if fraction else 0.0
    learned = [documents.numbers_of(i)[each >= limit] for i, each in enumerate(draws)]
    held_out = [documents.numbers_of(i)[each < limit] for i, each in enumerate(draws)]
    ledgers = (
        _ledger(stores, learned, lambda draw: draw >= limit),
        _ledger(stores, held_out, lambda draw: draw < limit),
    )
    return Side(documents, learned, ledgers[0]), Side(documents, held_out, ledgers[1])


def _limit(
    stores: Sequence[ArrayStore], draws: Sequence[NDArray[np.float64]], fraction: float
) -> float:
    dropped = [draw for store in stores for _, _, draw in store.fate.dropped]
    return held_out_limit(np.unique(np.concatenate([*draws, dropped])).tolist(), fraction)


def _ledger(
    stores: Sequence[ArrayStore], numbers: Sequence[Numbers], is_here: Callable[[float], bool]
) -> Ledger:
    """Return what became of the examples whose draw is on this side."""
    ledger = Ledger()
    for store, documents in zip(stores, numbers, strict=True):
        shortened = [entry for entry in store.fate.truncated if is_here(entry[2])]
        ledger.keep(len(documents) - len(shortened))
        for origin, reason, _ in shortened:
            ledger.truncate(origin, reason)
        for origin, reason, draw in store.fate.dropped:
            if is_here(draw):
                ledger.drop(origin, reason)
    return ledger

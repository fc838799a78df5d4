"""The documents of stores, which stay on the disk until a row asks for them."""

from collections.abc import Sequence

import numpy as np

from danlu.data.documents import Numbers, Pieces, TokenDocument
from danlu.data.encoded.store import ArrayStore


class StoredDocuments:
    """The rows of several stores, one store after the other.

    Attributes:
        lengths: tokens of each document.
        draws: of each document, the number that decides whether it is held out.
        firsts: the number of each store's first document, and behind them the number of all.

    Args:
        stores: with a column `ids`; perhaps with `labels`, `weights` and `targets`.
    """

    def __init__(self, stores: Sequence[ArrayStore]) -> None:
        self._stores = list(stores)
        self.firsts = np.cumsum([0, *map(len, self._stores)]).tolist()
        empty = np.empty(0, np.int64)
        self.lengths: Numbers = np.concatenate([empty, *(s.lengths("ids") for s in self._stores)])
        self.draws = np.concatenate([np.empty(0), *(store.draws for store in self._stores)])

    def __len__(self) -> int:
        return len(self.lengths)

    def numbers_of(self, store: int) -> Numbers:
        """Return the numbers of one store's documents."""
        return np.arange(self.firsts[store], self.firsts[store + 1])

    def __getitem__(self, number: int) -> TokenDocument:
        at = int(np.searchsorted(self.firsts, number, side="right")) - 1
        store, row = self._stores[at], number - self.firsts[at]
        ids = store.array("ids", row)
        if "labels" not in store.columns:
            return TokenDocument(ids, origin=store.origin(row))
        weights = store.array("weights", row)
        labels = store.array("labels", row)
        return TokenDocument(ids, labels, weights if len(weights) else None, store.origin(row))

    def count_targets(self, pieces: Pieces) -> int | float:
        """Return how many tokens are learned in all pieces together, or their weight."""
        known = np.concatenate([np.empty(0), *map(_targets, self._stores)])
        is_whole = pieces.length == self.lengths[pieces.document]
        # Only documents that are learned as a whole are ever cut.
        total = known[pieces.document[is_whole]].sum() + (pieces.length[~is_whole] - 1).sum()
        return int(total) if float(total).is_integer() else float(total)


def _targets(store: ArrayStore) -> np.ndarray:
    """Return how many tokens of each row are learned."""
    if "targets" in store.columns:
        return store.column("targets")
    return store.lengths("ids") - 1

"""Which row comes next: shuffled passes over all rows, resumable from one number.

Rows are drawn one at a time from an endless stream (pass after pass), so the rows of a step do not
depend on how a global batch is cut into micro-batches or over processes.
"""

import random
from collections.abc import Callable, Sequence

from danlu.errors import DataError

Order = Callable[[random.Random, Sequence[int]], list[int]]
_STEPS_ALIKE = 50  # global batches that are sorted by length together


def shuffled(rng: random.Random, lengths: Sequence[int]) -> list[int]:
    """Return the numbers of all rows in random order."""
    order = list(range(len(lengths)))
    rng.shuffle(order)
    return order


def by_length(global_batch_size: int) -> Order:
    """Return an order that puts rows of similar length into the same global batch.

    Rows are shuffled, sorted by length within many batches at a time, and the batches shuffled.
    """

    def order(rng: random.Random, lengths: Sequence[int]) -> list[int]:
        rows = shuffled(rng, lengths)
        span = _STEPS_ALIKE * global_batch_size
        batches: list[list[int]] = []
        for start in range(0, len(rows), span):
            alike = sorted(rows[start : start + span], key=lambda row: -lengths[row])
            cuts = range(0, len(alike), global_batch_size)
            batches += [alike[cut : cut + global_batch_size] for cut in cuts]
        whole = [batch for batch in batches if len(batch) == global_batch_size]
        rng.shuffle(whole)
        rest = [row for batch in batches if len(batch) < global_batch_size for row in batch]
        return [row for batch in whole for row in batch] + rest

    return order


class RowSampler:
    """Draws row numbers in [0, num_rows); every epoch has each row exactly once.

    Args:
        num_rows: how many rows there are.
        seed: fixes the permutation of every epoch.
        consumed: how many numbers were drawn before; the only state, to be kept in a checkpoint.

    Raises:
        DataError: if there is no row, or `consumed` is negative.
    """

    def __init__(self, num_rows: int, seed: int | str, consumed: int = 0) -> None:
        if num_rows < 1 or consumed < 0:
            raise DataError(
                f"Cannot sample {num_rows} rows from place {consumed}; expected at least one row "
                "and a place from 0."
            )
        self.num_rows = num_rows
        self.seed = seed
        self.consumed = consumed
        self._epoch = -1
        self._order: list[int] = []

    @property
    def epoch(self) -> int:
        """The epoch of the next row, from 0."""
        return self.consumed // self.num_rows

    def take(self, count: int) -> list[int]:
        """Return the next `count` row numbers and advance; may run on into the next epoch."""
        return [self._next() for _ in range(count)]

    def _next(self) -> int:
        if self.epoch != self._epoch:
            self._epoch = self.epoch
            self._order = order_of_pass(self.seed, self._epoch, range(self.num_rows))
        row = self._order[self.consumed % self.num_rows]
        self.consumed += 1
        return row


def order_of_pass(
    seed: int | str, number: int, lengths: Sequence[int], order: Order = shuffled
) -> list[int]:
    """Return the order of the rows in pass `number` (from 0) over rows of these lengths."""
    return order(random.Random(f"rows:{seed}:{number}"), lengths)

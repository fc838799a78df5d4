"""The order of rows in training: one endless stream, a new permutation for each epoch.

The whole state is how many rows were taken, so a resumed run goes on exactly where it stopped, and
the stream does not depend on how a global batch is cut into micro-batches or over processes.
"""

import random

from danlu.errors import DataError


class RowSampler:
    """Draws row numbers in [0, num_rows); every epoch has each row exactly once.

    Args:
        num_rows: how many rows there are.
        seed: fixes the permutation of every epoch.
        consumed: how many numbers were drawn before; the only state, to be kept in a checkpoint.

    Raises:
        DataError: if there is no row, or `consumed` is negative.
    """

    def __init__(self, num_rows: int, seed: int, consumed: int = 0) -> None:
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
            self._order = list(range(self.num_rows))
            random.Random(f"rows:{self.seed}:{self._epoch}").shuffle(self._order)
        row = self._order[self.consumed % self.num_rows]
        self.consumed += 1
        return row

"""Where batches come from: the seam between the loop and data, and rows of documents behind it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from danlu.data.batch import Batch, collate
from danlu.data.mixing.passes import Arrange, Passes, alone, packed
from danlu.data.mixing.sampler import Order, by_length, order_of_pass, shuffled
from danlu.data.packing import PackedRow
from danlu.errors import CheckpointError

LENGTH_STEP = 32
B_co = TypeVar("B_co", covariant=True)


class BatchSource(Protocol[B_co]):
    """An endless stream of global batches with a cursor that fits into a checkpoint."""

    def next_step(self) -> Sequence[B_co]:
        """Return the micro-batches of the next optimizer step and move on."""

    def num_tokens(self) -> int:
        """Return how many real tokens the last step's batches have."""

    def origins(self) -> list[str]:
        """Return where the rows of the last step come from, as ``file:line``."""

    def cursor(self) -> dict[str, Any]:
        """Return the place in the stream, as plain JSON."""

    def seek(self, cursor: Mapping[str, Any]) -> None:
        """Go to a place that `cursor` returned."""


def batches_of(rows: Sequence[PackedRow], batch_size: int, device: str = "cpu") -> list[Batch]:
    """Return the rows, in their order, as batches; the last one may be smaller."""
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [collate(part, length=_even_length(part)).to(device) for part in parts]


def batches_by_length(
    rows: Sequence[PackedRow], batch_size: int, device: str = "cpu"
) -> list[Batch]:
    """Return the rows as batches, those of similar length together, the longest first."""
    return batches_of(sorted(rows, key=lambda row: -row.num_tokens), batch_size, device)


def joined_batches(rows: Sequence[PackedRow], batch_size: int, device: str = "cpu") -> list[Batch]:
    """Return batches of one row each, in which `batch_size` rows lie one after the other."""
    parts = (rows[start : start + batch_size] for start in range(0, len(rows), batch_size))
    joined = [PackedRow([each for row in part for each in row.documents]) for part in parts]
    return batches_of(joined, 1, device)


@dataclass(frozen=True)
class Batching:
    """How documents become batches. The loss and its gradient are the same for all kinds.

    Attributes:
        arrange: makes rows of documents.
        order: of the rows of a pass; made from the rows of a step.
        cut: makes micro-batches of the rows of a step.
    """

    arrange: Arrange
    order: Callable[[int], Order]
    cut: Callable[[Sequence[PackedRow], int, str], list[Batch]]


def _shuffled(global_batch_size: int) -> Order:
    return shuffled


BATCHINGS = {
    "packed": Batching(packed, _shuffled, batches_of),
    "padded": Batching(alone, _shuffled, batches_of),
    "grouped": Batching(alone, by_length, batches_by_length),
    "padding-free": Batching(alone, _shuffled, joined_batches),
}


class RowSource:
    """The rows of endless passes in a seeded order.

    Args:
        passes: what the rows of each pass are.
        seed: decides the order.
        micro_batch_size: rows per batch.
        global_batch_size: rows per step, a multiple of `micro_batch_size`.
        device: where the batches are put.
        batching: decides order and batches.
    """

    def __init__(
        self,
        passes: Passes,
        seed: int,
        micro_batch_size: int,
        global_batch_size: int,
        device: str = "cpu",
        batching: Batching = BATCHINGS["packed"],
    ) -> None:
        self._passes = passes
        self._seed = seed
        self._micro_batch_size = micro_batch_size
        self._global_batch_size = global_batch_size
        self._device = device
        self._batching = batching
        self._order_of_rows = batching.order(global_batch_size)
        self._pass, self._taken = 0, 0
        self._order: list[int] = []
        self._last: list[PackedRow] = []

    def next_step(self) -> list[Batch]:
        """Return the micro-batches of the next optimizer step and move on."""
        self._last = [self._next() for _ in range(self._global_batch_size)]
        return self._batching.cut(self._last, self._micro_batch_size, self._device)

    def _next(self) -> PackedRow:
        if self._order and self._taken == len(self._order):
            self._pass, self._taken, self._order = self._pass + 1, 0, []
        if not self._order:
            self._order = self._order_of(self._pass)
        row = self._passes.rows(self._pass)[self._order[self._taken]]
        self._taken += 1
        return row

    def _order_of(self, number: int) -> list[int]:
        lengths = self._passes.lengths(number)
        return order_of_pass(self._seed, number, lengths, self._order_of_rows)

    def num_tokens(self) -> int:
        """Return how many real tokens the last step's batches have."""
        return sum(row.num_tokens for row in self._last)

    def origins(self) -> list[str]:
        """Return where the documents of the last step come from, each once."""
        documents = (document for row in self._last for document in row.documents)
        return list(dict.fromkeys(document.origin for document in documents))

    def cursor(self) -> dict[str, Any]:
        """Return the pass, how many rows of it were taken, and of how many."""
        state = self._passes.state()
        place = {"pass": self._pass, "taken": self._taken, "num_rows": len(self._order)}
        return {**place, "passes": state} if state else place

    def seek(self, cursor: Mapping[str, Any]) -> None:
        """Go to a place that `cursor` returned.

        Raises:
            CheckpointError: if the pass has another number of rows now.
        """
        self._passes.restore(cursor.get("passes", {}))
        self._pass, self._taken = cursor["pass"], cursor["taken"]
        self._order = self._order_of(self._pass) if cursor["num_rows"] else []
        if cursor["num_rows"] != len(self._order):
            raise CheckpointError(
                f"The checkpoint was made with {cursor['num_rows']} rows of data; now there are "
                f"{len(self._order)}. Expected the same data. Choose another output folder."
            )


def _even_length(rows: Sequence[PackedRow]) -> int:
    """Return the longest row's length, rounded up: kernels are prepared once per shape."""
    longest = max(row.num_tokens for row in rows)
    return -(-longest // LENGTH_STEP) * LENGTH_STEP

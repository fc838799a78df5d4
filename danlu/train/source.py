"""Where batches come from: the seam between the loop and data, and packed rows behind it."""

from collections.abc import Mapping, Sequence
from typing import Protocol, TypeVar

from danlu.data.batch import Batch, collate
from danlu.data.packing import PackedRow
from danlu.data.sampler import RowSampler
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

    def cursor(self) -> dict[str, int]:
        """Return the place in the stream, as plain JSON."""

    def seek(self, cursor: Mapping[str, int]) -> None:
        """Go to a place that `cursor` returned."""


class PackedSource:
    """Packed rows in a seeded order, without end.

    Args:
        rows: all rows of an epoch.
        seed: decides the order.
        micro_batch_size: rows per batch.
        global_batch_size: rows per step, a multiple of `micro_batch_size`.
        device: where the batches are put.
    """

    def __init__(
        self,
        rows: Sequence[PackedRow],
        seed: int,
        micro_batch_size: int,
        global_batch_size: int,
        device: str = "cpu",
    ) -> None:
        self._rows = rows
        self._sampler = RowSampler(len(rows), seed)
        self._micro_batch_size = micro_batch_size
        self._global_batch_size = global_batch_size
        self._device = device
        self._last: list[PackedRow] = []

    def next_step(self) -> list[Batch]:
        """Return the micro-batches of the next optimizer step and move on."""
        self._last = [self._rows[i] for i in self._sampler.take(self._global_batch_size)]
        return batches_of(self._last, self._micro_batch_size, self._device)

    def num_tokens(self) -> int:
        """Return how many real tokens the last step's batches have."""
        return sum(row.num_tokens for row in self._last)

    def origins(self) -> list[str]:
        """Return where the documents of the last step come from, each once."""
        documents = (document for row in self._last for document in row.documents)
        return list(dict.fromkeys(document.origin for document in documents))

    def cursor(self) -> dict[str, int]:
        """Return how many rows were taken, and of how many."""
        return {"consumed": self._sampler.consumed, "num_rows": len(self._rows)}

    def seek(self, cursor: Mapping[str, int]) -> None:
        """Go to a place that `cursor` returned.

        Raises:
            CheckpointError: if the cursor belongs to another number of rows.
        """
        if cursor["num_rows"] != len(self._rows):
            raise CheckpointError(
                f"The checkpoint was made with {cursor['num_rows']} rows of data; now there are "
                f"{len(self._rows)}. Expected the same data. Choose another output folder."
            )
        self._sampler = RowSampler(len(self._rows), self._sampler.seed, cursor["consumed"])


def batches_of(rows: Sequence[PackedRow], batch_size: int, device: str = "cpu") -> list[Batch]:
    """Return the rows, in their order, as batches; the last one may be smaller."""
    parts = [rows[start : start + batch_size] for start in range(0, len(rows), batch_size)]
    return [collate(part, length=_even_length(part)).to(device) for part in parts]


def _even_length(rows: Sequence[PackedRow]) -> int:
    """Return the longest row's length, rounded up: kernels are prepared once per shape."""
    longest = max(row.num_tokens for row in rows)
    return -(-longest // LENGTH_STEP) * LENGTH_STEP

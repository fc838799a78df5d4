"""Comparisons or judgements in a seeded order, without end."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from danlu.data.mixing.sampler import RowSampler
from danlu.data.preferences import Comparison, Example, Judgement
from danlu.errors import CheckpointError
from danlu.train.preference.batch import (
    JudgedBatch,
    PairBatch,
    collate_judgements,
    collate_pairs,
)

Known = Sequence[Sequence[float]]
E = TypeVar("E", Comparison, Judgement)
B = TypeVar("B", PairBatch, JudgedBatch)


@dataclass(frozen=True)
class Batches(Generic[E, B]):
    """Examples that become batches, with what a reference model thinks of their answers.

    Attributes:
        examples: in any order.
        collate: makes a batch of some of them.
        reference: for each, the log-probability of each of its `sequences()`; None if it is not
            known beforehand.
        device: where batches are put.
    """

    examples: Sequence[E]
    collate: Callable[[Sequence[E], Known | None], B]
    reference: Known | None = None
    device: str = "cpu"

    def batch(self, numbers: Sequence[int]) -> B:
        """Return the examples with these numbers as a batch."""
        known = None if self.reference is None else [self.reference[i] for i in numbers]
        return self.collate([self.examples[i] for i in numbers], known).to(self.device)

    def first(self, count: int) -> "Batches[E, B]":
        """Return the first `count` examples alone."""
        known = None if self.reference is None else self.reference[:count]
        return Batches(self.examples[:count], self.collate, known, self.device)

    def of(self, numbers: Sequence[int], size: int) -> list[B]:
        """Return these examples as batches of `size`; the last one may be smaller."""
        starts = range(0, len(numbers), size)
        return [self.batch(numbers[start : start + size]) for start in starts]


def pair_batches(
    pairs: Sequence[Comparison], reference: Known | None, device: str
) -> Batches[Comparison, PairBatch]:
    """Return comparisons that become batches of pairs."""
    return Batches(pairs, collate_pairs, reference, device)


def judged_batches(
    judgements: Sequence[Judgement], reference: Known | None, device: str
) -> Batches[Judgement, JudgedBatch]:
    """Return judgements that become batches."""
    return Batches(judgements, collate_judgements, reference, device)


class ExampleSource(Generic[E, B]):
    """Examples in a seeded order, without end; an example is never torn apart.

    Args:
        batches: all examples of an epoch.
        seed: decides the order.
        micro_batch_size: examples per batch.
        global_batch_size: examples per step, a multiple of `micro_batch_size`.
    """

    def __init__(
        self, batches: Batches[E, B], seed: int, micro_batch_size: int, global_batch_size: int
    ) -> None:
        self._batches: Batches[E, B] = batches
        self._sampler = RowSampler(len(batches.examples), seed)
        self._micro_batch_size = micro_batch_size
        self._global_batch_size = global_batch_size
        self._last: list[int] = []

    def next_step(self) -> list[B]:
        """Return the micro-batches of the next optimizer step and move on."""
        self._last = self._sampler.take(self._global_batch_size)
        return self._batches.of(self._last, self._micro_batch_size)

    def num_tokens(self) -> int:
        """Return how many tokens the sequences of the last step have, prompts included."""
        return sum(num_tokens(self._batches.examples[i]) for i in self._last)

    def origins(self) -> list[str]:
        """Return where the examples of the last step come from, each once."""
        return list(dict.fromkeys(self._batches.examples[i].origin for i in self._last))

    def cursor(self) -> dict[str, int]:
        """Return how many examples were taken, and of how many."""
        return {"consumed": self._sampler.consumed, "num_rows": self._sampler.num_rows}

    def seek(self, cursor: Mapping[str, int]) -> None:
        """Go to a place that `cursor` returned.

        Raises:
            CheckpointError: if the cursor belongs to another number of examples.
        """
        num_rows = self._sampler.num_rows
        if cursor["num_rows"] != num_rows:
            raise CheckpointError(
                f"The checkpoint was made with {cursor['num_rows']} examples; now there are "
                f"{num_rows}. Expected the same data. Choose another output folder."
            )
        self._sampler = RowSampler(num_rows, self._sampler.seed, cursor["consumed"])


def num_tokens(example: Example) -> int:
    """Return how many tokens all sequences of an example have."""
    return sum(len(sequence.ids) for sequence in example.sequences())

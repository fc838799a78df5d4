"""A quantized weight as numbers. Knows no operator and no file."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Self

import torch
from torch import Size, Tensor


class QuantizedWeight(ABC):
    """A weight [out, in] in few bits, whatever its codes stand for.

    Attributes:
        bits: of a code.
    """

    bits: int

    @property
    @abstractmethod
    def shape(self) -> Size:
        """[out, in] of the weight it stands for."""

    @property
    @abstractmethod
    def dtype(self) -> torch.dtype:
        """The dtype of the numbers it stands for, where no other is asked for."""

    @abstractmethod
    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [out, in], computed in float32, in `dtype` (default: its own)."""

    @abstractmethod
    def rows(self, which: Tensor | slice) -> Self:
        """Return some outputs in a given order, exactly as they are: indices [n], or a slice."""

    @classmethod
    @abstractmethod
    def stacked(cls, parts: Sequence[Self]) -> Self:
        """Return the outputs of all parts, one part after the other.

        Raises:
            QuantizationError: if the parts do not fit into one weight, saying why.
        """

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Self:
        """Return the weight as numbers of another dtype."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything it consists of."""

    @abstractmethod
    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the weight of other `tensors` (elsewhere, or changed)."""

    @property
    def nbytes(self) -> int:
        """Memory it takes."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    def slices(self, num_weights: int) -> Iterator[Self]:
        """Yield consecutive outputs of at most `num_weights` weights, one output at least."""
        outputs, inputs = self.shape
        rows = max(1, num_weights // max(1, inputs))
        for start in range(0, outputs, rows):
            yield self.rows(slice(start, start + rows))

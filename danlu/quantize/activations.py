"""How the inputs of a quantized layer are rounded before the product."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Self

from torch import Tensor


class InputRounding(ABC):
    """Rounds what enters a quantized layer.

    The numbers are those of the kernels that serve such checkpoints; `rounded` is the reference.
    """

    @abstractmethod
    def rounded(self, x: Tensor) -> Tensor:
        """Return the inputs [..., in] as the product sees them, in the dtype of `x`."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return what it consists of; nothing where scales are found as inputs come."""

    @abstractmethod
    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the rounding of other tensors (elsewhere, or changed)."""

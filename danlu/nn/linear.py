"""What every linear layer answers, whether dense, quantized, packed or wrapped by an adapter."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LinearLike(nn.Module, ABC):
    """A linear map `in_features` -> `out_features`; wrappers nest by taking one and being one."""

    in_features: int
    out_features: int

    @abstractmethod
    def dense_weight(self) -> Tensor:
        """Return the weight this layer multiplies by, as a dense [out, in] tensor."""

    @abstractmethod
    def bias_or_none(self) -> Tensor | None:
        """Return the bias [out_features], or None."""

    def extra_repr(self) -> str:
        """Return the sizes, for ``print(model)``."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Linear(LinearLike):
    """The dense linear layer, with parameters `weight` and (optionally) `bias`."""

    def __init__(self, in_features: int, out_features: int, *, bias: bool = False) -> None:
        super().__init__()
        self.in_features = in_features
        self.out_features = out_features
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        self.bias = nn.Parameter(torch.empty(out_features)) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return x W^T + b."""
        return F.linear(x, self.dense_weight(), self.bias)

    def dense_weight(self) -> Tensor:
        """Return the weight this layer multiplies by: the parameter itself."""
        return self.effective(self.weight)

    @staticmethod
    def effective(stored: Tensor) -> Tensor:
        """Return the weight that a stored weight stands for."""
        return stored

    def bias_or_none(self) -> Tensor | None:
        """Return the bias parameter, or None."""
        return self.bias


class NormalizedLinear(Linear):
    """A linear layer whose rows have length 1: the head of Baichuan 2 (arXiv:2309.10305, sec. 2.6).

    The stored weight is not normalised; each row is divided by its length when it is used.
    """

    @staticmethod
    def effective(stored: Tensor) -> Tensor:
        """Return the rows divided by their lengths."""
        return F.normalize(stored)


class HasLinears(Protocol):
    """A model whose linear layers can be listed and replaced."""

    def linears(self) -> Iterator[tuple[str, LinearLike]]:
        """Yield every outermost linear layer with its name."""

    def replace_linear(self, name: str, linear: LinearLike) -> None:
        """Put `linear` in the place of the layer called `name`."""

    def parameters(self) -> Iterator[nn.Parameter]:
        """Yield every parameter."""


class Fusable(Protocol):
    """A block with linear layers on one input, which may become one layer for inference."""

    fuses: ClassVar[tuple[str, ...]]

    def fused(self, linear: LinearLike) -> nn.Module:
        """Return the block with `linear`, whose rows are those of all `fuses` in order."""

"""(IA)3: trained factors on what a linear layer gives or takes (arXiv:2205.05638, sec. 3.3)."""

import torch
from torch import Tensor, nn

from danlu.adapters.wrappers import AdaptedLinear, original
from danlu.nn.linear import LinearLike


class ScaledOutputs(AdaptedLinear):
    """base(x) * factors: every output, the bias too, has its factor.

    Args:
        base: the layer.
        factors: [out], float32 master; a fresh one is all ones.
    """

    def __init__(self, base: LinearLike, factors: Tensor) -> None:
        super().__init__(base)
        self.factors = nn.Parameter(factors)

    def forward(self, x: Tensor) -> Tensor:
        """Return the scaled product in the dtype of `x`."""
        out: Tensor = self.base(x)
        if original(self) is self.base:
            return out * self.factors.to(out.dtype)
        plain: Tensor = original(self)(x)
        return out + plain * (self.factors - 1).to(out.dtype)

    def change(self, weight_OI: Tensor) -> Tensor:
        """Return the float32 change of the weight."""
        return weight_OI * (self.factors.float()[:, None] - 1)

    def bias_change(self, bias_O: Tensor) -> Tensor:
        """Return the float32 change of the bias."""
        return bias_O * (self.factors.float() - 1)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [self.factors]


class ScaledInputs(AdaptedLinear):
    """base(x * factors): every input has its factor.

    Args:
        base: the layer.
        factors: [in], float32 master; layers that are one published layer may share it.
    """

    def __init__(self, base: LinearLike, factors: Tensor) -> None:
        super().__init__(base)
        self.factors = factors if isinstance(factors, nn.Parameter) else nn.Parameter(factors)

    def forward(self, x: Tensor) -> Tensor:
        """Return the product of the scaled input in the dtype of `x`."""
        scaled = x * self.factors.to(x.dtype)
        out: Tensor = self.base(scaled if original(self) is self.base else x)
        if original(self) is self.base:
            return out
        change: Tensor = original(self)(scaled) - original(self)(x)
        return out + change

    def change(self, weight_OI: Tensor) -> Tensor:
        """Return the float32 change of the weight."""
        return weight_OI * (self.factors.float() - 1)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [self.factors]


def ones(size: int, base: LinearLike) -> Tensor:
    """Return factors that change nothing, where `base` is."""
    device = next((p.device for p in base.parameters()), torch.device("cpu"))
    return torch.ones(size, device=device)

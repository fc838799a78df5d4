"""A linear layer on a quantized weight."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.nn.linear import LinearLike
from danlu.quantize.operators import choose_operator
from danlu.quantize.weight import QuantizedWeight


class QuantizedLinear(LinearLike):
    """x W^T + b with W quantized; differentiable in x, never in W.

    Args:
        weight: the quantized weight.
        bias: [out], or None.
    """

    def __init__(self, weight: QuantizedWeight, bias: nn.Parameter | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.codes.shape
        self.bits = weight.bits
        self.operator = choose_operator(weight)
        self.bias = bias

    def forward(self, x: Tensor) -> Tensor:
        """Return the product in the dtype of `x`."""
        if torch.is_grad_enabled() and x.requires_grad:
            return F.linear(x, self.dense_weight().to(x.dtype), self.bias)
        rows = x.reshape(-1, x.shape[-1]).contiguous()
        out = self.operator.multiply(rows).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias

    def dense_weight(self) -> Tensor:
        """Return the dequantized weight [out, in]."""
        return self.operator.quantized().dequantize()

    def bias_or_none(self) -> Tensor | None:
        """Return the bias."""
        return self.bias

"""A linear layer on a quantized weight."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from danlu.nn.linear import LinearLike
from danlu.quantize.operators import Operator, choose_operator, joined
from danlu.quantize.weight import QuantizedWeight


class QuantizedLinear(LinearLike):
    """x W^T + b with W quantized; differentiable in x, never in W.

    Args:
        weight: the quantized weight.
        bias: [out], or None.
        dtype: of the model, in which `dense_weight` is; default: that of the weight.
    """

    def __init__(
        self,
        weight: QuantizedWeight,
        bias: nn.Parameter | None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bits = weight.bits
        self.operator = choose_operator(weight)
        self.bias = bias
        # Follows the model where it is cast; the weight does not.
        self.register_buffer("like", torch.empty(0, dtype=dtype or weight.dtype), persistent=False)
        self.like: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the product in the dtype of `x`."""
        if torch.is_grad_enabled() and x.requires_grad:
            out: Tensor = _Product.apply(x, self.operator)  # type: ignore[no-untyped-call]
        else:
            rows = x.reshape(-1, x.shape[-1]).contiguous()
            out = self.operator.multiply(rows).view(*x.shape[:-1], -1)
        return out if self.bias is None else out + self.bias

    def quantized(self) -> QuantizedWeight:
        """Return the weight in its few bits."""
        return self.operator.quantized()

    def dense_weight(self) -> Tensor:
        """Return the dequantized weight [out, in], in the dtype of the model."""
        return self.quantized().dequantize(self.like.dtype)

    def bias_or_none(self) -> Tensor | None:
        """Return the bias."""
        return self.bias


class _Product(torch.autograd.Function):
    """x W^T that keeps nothing for the backward pass: W is dequantized again, part by part.

    The sum over the outputs that is the gradient in x is added up in float32.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        return joined([F.linear(x, part.dequantize(x.dtype)) for part in operator.parts()])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        total, start = None, 0
        for part in ctx.operator.parts():
            outputs = grad[..., start : start + part.shape[0]]
            product = outputs @ part.dequantize(grad.dtype)
            total = product if total is None else total.float().add_(product)
            start += part.shape[0]
        assert total is not None
        return total.to(grad.dtype), None

"""A linear layer on a quantized weight."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from danlu.nn.linear import LinearLike
from danlu.quantize.activations import InputRounding
from danlu.quantize.operators.choosing import choose_operator
from danlu.quantize.operators.int8_activations import RoundingOperator, choose_rounding_operator
from danlu.quantize.operators.operator import Operator, joined
from danlu.quantize.weight import QuantizedWeight


class QuantizedLinear(LinearLike):
    """x W^T + b with W quantized, and x too where `inputs` says how.

    Differentiable in x, never in W. The rounding of x is passed straight through: the forward pass
    of training is that of inference, its gradient that of x W^T (arXiv:1308.3432, section 4).

    Args:
        weight: the quantized weight.
        bias: [out], or None.
        dtype: of the model, in which `dense_weight` is; default: that of the weight.
        inputs: how x is rounded before the product; None: not at all.
    """

    def __init__(
        self,
        weight: QuantizedWeight,
        bias: nn.Parameter | None,
        dtype: torch.dtype | None = None,
        inputs: InputRounding | None = None,
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.bits = weight.bits
        self.operator: Operator = (
            choose_operator(weight) if inputs is None else choose_rounding_operator(weight, inputs)
        )
        self.bias = bias
        # Follows the model where it is cast; the weight does not.
        self.register_buffer("like", torch.empty(0, dtype=dtype or weight.dtype), persistent=False)
        self.like: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """Return the product in the dtype of `x`."""
        if torch.is_grad_enabled() and x.requires_grad:
            product = _Product if self.inputs is None else _RoundedProduct
            out: Tensor = product.apply(x, self.operator)  # type: ignore[no-untyped-call]
        else:
            out = _multiplied(x, self.operator)
        return out if self.bias is None else out + self.bias

    @property
    def inputs(self) -> InputRounding | None:
        """How inputs are rounded before the product; None: not at all."""
        operator = self.operator
        return operator.inputs() if isinstance(operator, RoundingOperator) else None

    def take_exact_inputs(self) -> None:
        """Stop rounding inputs; the weight stays as it is."""
        if self.inputs is not None:
            self.operator = choose_operator(self.quantized())

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


class _RoundedProduct(_Product):
    """The product of inference, with the gradient of `_Product`: rounding is passed through."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, operator: Operator) -> Tensor:
        ctx.operator = operator
        return _multiplied(x, operator)


def _multiplied(x: Tensor, operator: Operator) -> Tensor:
    product = operator.multiply(x.reshape(-1, x.shape[-1]).contiguous())
    return product.view(*x.shape[:-1], product.shape[-1])

"""Low-rank adapters around any linear layer (arXiv:2106.09685)."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.nn.linear import LinearLike


class LoRALinear(LinearLike):
    """base(x) + B A dropout(x) * scale; `base` may be dense or quantized.

    Args:
        base: the layer that is adapted; its parameters are frozen by `attach_adapter`.
        lora_A: [rank, in], float32 master.
        lora_B: [out, rank], float32 master.
        scale: alpha / rank.
        dropout: on the adapter's input, in training mode.
    """

    def __init__(
        self, base: LinearLike, lora_A: Tensor, lora_B: Tensor, scale: float, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = base.in_features, base.out_features
        self.base = base
        self.lora_A = nn.Parameter(lora_A)
        self.lora_B = nn.Parameter(lora_B)
        self.scale = scale
        self.dropout = dropout

    def forward(self, x: Tensor) -> Tensor:
        """Return the adapted product in the dtype of `x`."""
        dropped = F.dropout(x, self.dropout, self.training) if self.dropout else x
        low_rank = F.linear(dropped, self.lora_A.to(x.dtype))
        update = F.linear(low_rank, self.lora_B.to(x.dtype))
        out: Tensor = self.base(x)
        return torch.add(out, update, alpha=self.scale)

    def dense_weight(self) -> Tensor:
        """Return the merged weight, added up in float32, in the dtype of the base."""
        base = self.base.dense_weight()
        return (base.float() + self.delta()).to(base.dtype)

    def delta(self) -> Tensor:
        """Return the float32 change of the weight, B A * scale."""
        return (self.lora_B.float() @ self.lora_A.float()) * self.scale

    def bias_or_none(self) -> Tensor | None:
        """Return the bias of the base."""
        return self.base.bias_or_none()

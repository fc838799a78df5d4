"""Normalisation layers; statistics in float32 whatever the dtype of the input."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class RMSNorm(nn.Module):
    """Root-mean-square norm (arXiv:1910.07467): x / rms(x) * weight."""

    def __init__(self, hidden_size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; dtype and shape are kept."""
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class LayerNorm(nn.Module):
    """Layer norm with bias (arXiv:1607.06450)."""

    def __init__(self, hidden_size: int, *, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(hidden_size))
        self.bias = nn.Parameter(torch.empty(hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last dimension; dtype and shape are kept."""
        return F.layer_norm(x, self.weight.shape, self.weight, self.bias, self.eps)

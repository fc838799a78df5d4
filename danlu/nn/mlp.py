"""Feed-forward blocks."""

from collections.abc import Callable
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.nn.linear import Linear, LinearLike

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class GatedMLP(nn.Module):
    """activation(gate(x)) * up(x), then down (arXiv:2002.05202)."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, *, activation: str, bias: bool = False
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.gate_proj: LinearLike = Linear(hidden_size, intermediate_size, bias=bias)
        self.up_proj: LinearLike = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj: LinearLike = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the block's output [B, T, D]."""
        down: Tensor = self.down_proj(self.gated(x_BTD))
        return down

    def gated(self, x_BTD: Tensor) -> Tensor:
        """Return activation(gate) * up, [B, T, F]."""
        return self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD)


class PlainMLP(nn.Module):
    """up, activation, down (arXiv:1706.03762)."""

    def __init__(
        self, hidden_size: int, intermediate_size: int, *, activation: str, bias: bool = True
    ) -> None:
        super().__init__()
        self.activation = ACTIVATIONS[activation]
        self.up_proj: LinearLike = Linear(hidden_size, intermediate_size, bias=bias)
        self.down_proj: LinearLike = Linear(intermediate_size, hidden_size, bias=bias)

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the block's output [B, T, D]."""
        down: Tensor = self.down_proj(self.activation(self.up_proj(x_BTD)))
        return down

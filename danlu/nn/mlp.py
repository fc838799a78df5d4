"""Feed-forward blocks."""

from collections.abc import Callable
from functools import partial
from typing import ClassVar

from torch import Tensor, nn
from torch.nn import functional as F

from danlu.nn.linear import Linear, LinearLike
from danlu.nn.scaling import ScalingGroup

Activation = Callable[[Tensor], Tensor]

ACTIVATIONS: dict[str, Activation] = {
    "silu": F.silu,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
}


class GatedMLP(nn.Module):
    """activation(gate(x)) * up(x), then down (arXiv:2002.05202)."""

    fuses: ClassVar[tuple[str, ...]] = ("gate_proj", "up_proj")

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
        down: Tensor = self.down_proj(self.activation(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))
        return down

    def readers(self) -> tuple[str, ...]:
        """Return the layers that read its input."""
        return self.fuses

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return up and down: the product with the gate is linear in up."""
        return [ScalingGroup("up_proj", ("down_proj",), "up")]

    def fused(self, linear: LinearLike) -> "FusedGatedMLP":
        """Return this block with one projection for gate and up."""
        return FusedGatedMLP(self.activation, linear, self.down_proj)


class FusedGatedMLP(nn.Module):
    """`GatedMLP` for inference: one product for gate and up."""

    def __init__(self, activation: Activation, gate_up: LinearLike, down: LinearLike) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up_proj = gate_up
        self.down_proj = down

    def forward(self, x_BTD: Tensor) -> Tensor:
        """Return the block's output [B, T, D]."""
        gate_BTF, up_BTF = self.gate_up_proj(x_BTD).chunk(2, dim=-1)
        down: Tensor = self.down_proj(self.activation(gate_BTF) * up_BTF)
        return down

    def readers(self) -> tuple[str, ...]:
        """Return the layer that reads its input."""
        return ("gate_up_proj",)

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return nothing: its layers are packed for inference."""
        return []


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

    def readers(self) -> tuple[str, ...]:
        """Return the layer that reads its input."""
        return ("up_proj",)

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return up and down if positive factors pass through the activation: of ReLU they do."""
        passes = self.activation is ACTIVATIONS["relu"]
        return [ScalingGroup("up_proj", ("down_proj",), "up")] if passes else []

"""Low-rank adapters around any linear layer (arXiv:2106.09685)."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.config.adapter import LoraConfig
from danlu.errors import AdapterError
from danlu.nn.linear import HasLinears, Linear, LinearLike


class LoRALinear(LinearLike):
    """base(x) + B A dropout(x) * scale; `base` may be dense or quantized.

    Args:
        base: the layer that is adapted; its parameters are frozen by `attach_lora`.
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


def attach_lora(model: HasLinears, config: LoraConfig, generator: torch.Generator) -> list[str]:
    """Freeze `model` and wrap the targeted linear layers; return their names.

    A fresh adapter changes nothing: A is drawn uniformly as for a linear layer, B is zero.

    Raises:
        AdapterError: if a target names no layer.
    """
    targets = choose_targets(model, config)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    linears = dict(model.linears())
    for name in targets:
        base = linears[name]
        bound = 1 / math.sqrt(base.in_features)
        lora_A = torch.empty(config.lora_rank, base.in_features)
        lora_A.uniform_(-bound, bound, generator=generator)
        lora_B = torch.zeros(base.out_features, config.lora_rank)
        scale = config.lora_alpha / config.lora_rank
        wrapped = LoRALinear(base, lora_A, lora_B, scale, config.lora_dropout)
        model.replace_linear(name, wrapped)
    return targets


def choose_targets(model: HasLinears, config: LoraConfig) -> list[str]:
    """Return the names of the layers that the config targets.

    Raises:
        AdapterError: listing every target that matches nothing.
    """
    names = [name for name, _ in model.linears()]
    if config.targets == "all-linear":
        return [name for name in names if name != "lm_head"]
    wanted = config.targets
    unmatched = [t for t in wanted if not any(_ends_with(name, t) for name in names)]
    if unmatched:
        endings = sorted({name.rpartition(".")[2] for name in names})
        raise AdapterError(
            f"No linear layer is called {', '.join(map(repr, unmatched))}. "
            f"Expected endings among {', '.join(endings)}, or 'all-linear'."
        )
    return [name for name in names if any(_ends_with(name, target) for target in wanted)]


def _ends_with(name: str, target: str) -> bool:
    return name == target or name.endswith(f".{target}")


def adapted_linears(model: HasLinears) -> dict[str, LoRALinear]:
    """Return the wrapped layers by name."""
    return {name: linear for name, linear in model.linears() if isinstance(linear, LoRALinear)}


@torch.no_grad()
def merge_lora(model: HasLinears) -> list[str]:
    """Replace every adapted layer by a dense one with the merged weight; return their names.

    The update is added to the exact base that the adapter saw: a quantized base is dequantized.
    """
    adapted = adapted_linears(model)
    for name, layer in adapted.items():
        with torch.device("meta"):
            merged = Linear(layer.in_features, layer.out_features)
        merged.weight = nn.Parameter(layer.dense_weight(), requires_grad=False)
        bias = layer.bias_or_none()
        merged.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
        model.replace_linear(name, merged)
    return list(adapted)

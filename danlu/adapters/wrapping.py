"""Adapters that stand around linear layers: put on, taken off, merged."""

from collections.abc import Mapping

import torch
from torch import nn

from danlu.adapters.attached import Adaptable, Attached
from danlu.adapters.lora import LoRALinear
from danlu.config.base import Config
from danlu.nn.linear import Linear


class Wrapping(Attached):
    """An adapter that consists of wrappers around linear layers.

    Args:
        method: name of the method that made it.
        config: a config it could be made with.
        wrappers: by the name of the layer that each is put around.
    """

    def __init__(self, method: str, config: Config, wrappers: Mapping[str, LoRALinear]) -> None:
        self.method = method
        self.config = config
        self.names = list(wrappers)
        self.wrappers = dict(wrappers)

    def put_on(self, model: Adaptable) -> None:
        """Put every wrapper around what stands in its place now."""
        linears = dict(model.linears())
        for name, wrapper in self.wrappers.items():
            wrapper.base = linears[name]
            model.replace_linear(name, wrapper)

    def take_off(self, model: Adaptable) -> None:
        """Put back what the wrappers stood around."""
        for name, wrapper in self.wrappers.items():
            model.replace_linear(name, wrapper.base)

    def parameters(self) -> list[nn.Parameter]:
        """Return the parameters of the wrappers."""
        return [p for w in self.wrappers.values() for p in (w.lora_A, w.lora_B)]

    @torch.no_grad()
    def merge(self, model: Adaptable) -> None:
        """Put dense layers with the summed weights where adapted ones are."""
        for name, layer in model.linears():
            if name in self.wrappers and isinstance(layer, LoRALinear):
                model.replace_linear(name, merged(layer))


def merged(layer: LoRALinear) -> Linear:
    """Return a dense layer that computes what `layer` does.

    The update is added to the exact base that the adapter saw: a quantized base is dequantized.
    """
    with torch.device("meta"):
        dense = Linear(layer.in_features, layer.out_features)
    dense.weight = nn.Parameter(layer.dense_weight(), requires_grad=False)
    bias = layer.bias_or_none()
    dense.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return dense

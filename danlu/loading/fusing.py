"""Projections on one input become one layer while their weights arrive (for inference)."""

from collections.abc import Iterator
from typing import cast

import torch
from torch import Tensor, nn

from danlu.loading.building import LinearFactory
from danlu.models.decoder import Decoder
from danlu.nn.linear import Fusable, Linear


class Fusion:
    """Holds the weights of layers that will be fused until all of a block have arrived.

    Args:
        decoder: its blocks say what they fuse; they are replaced here.
        convert: makes the fused linear layer.
    """

    def __init__(self, decoder: Decoder, convert: LinearFactory) -> None:
        self._decoder = decoder
        self._convert = convert
        self._members = {
            block: [f"{block}.{member}" for member in members]
            for block, members in _fusable(decoder)
        }
        self._owners = {layer: block for block, layers in self._members.items() for layer in layers}
        self._arrived: dict[str, dict[str, Tensor]] = {}

    def take(self, layer: str, leaf: str, tensor: Tensor) -> bool:
        """Take the weight or bias of `layer` if it will be fused; return whether it was taken."""
        block = self._owners.get(layer)
        if block is None:
            return False
        arrived = self._arrived.setdefault(block, {})
        arrived[f"{layer}.{leaf}"] = tensor
        if arrived.keys() == set(self._expected(block)):
            self._fuse(block, self._arrived.pop(block))
        return True

    def _expected(self, block: str) -> Iterator[str]:
        for layer in self._members[block]:
            linear = self._decoder.get_submodule(layer)
            yield from (f"{layer}.{name}" for name, _ in linear.named_parameters())

    def _fuse(self, block: str, arrived: dict[str, Tensor]) -> None:
        members = self._members[block]
        weight = torch.cat([arrived[f"{layer}.weight"] for layer in members])
        biases = [arrived[f"{layer}.bias"] for layer in members if f"{layer}.bias" in arrived]
        bias = nn.Parameter(torch.cat(biases)) if biases else None
        module = cast(Fusable, self._decoder.get_submodule(block))
        fused = module.fused(self._convert(f"{block}.fused", weight, bias))
        parent, _, last = block.rpartition(".")
        setattr(self._decoder.get_submodule(parent), last, fused)


def _fusable(decoder: Decoder) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the blocks that can be fused: all their members are plain and biased alike."""
    for name, module in decoder.named_modules():
        members: tuple[str, ...] = getattr(module, "fuses", ())
        linears = [getattr(module, member) for member in members]
        plain = all(isinstance(linear, Linear) for linear in linears)
        if members and plain and len({linear.bias is None for linear in linears}) == 1:
            yield name, members

"""Projections on one input become one layer (for inference).

Dense ones do while their weights arrive, quantized ones of a quantized folder afterwards.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn

from danlu.errors import QuantizationError
from danlu.loading.building import LinearFactory
from danlu.models.decoder import Decoder
from danlu.nn.linear import Fusable, Linear, LinearLike
from danlu.quantize.activations import InputRounding
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.casting import cast_into


@dataclass
class _Arriving:
    """The fused weight (and bias) of one block, and which parts of it are not there yet."""

    weight: Tensor
    bias: Tensor | None
    rows: dict[str, slice]
    missing: set[tuple[str, str]]


class Fusion:
    """Copies the weights of layers that will be fused into place until a block is complete.

    Args:
        decoder: its blocks say what they fuse; they are replaced here.
        convert: makes the fused linear layer.
        dtype: of the fused weights.
        device: where they go.
    """

    def __init__(
        self, decoder: Decoder, convert: LinearFactory, dtype: torch.dtype, device: torch.device
    ) -> None:
        self._decoder = decoder
        self._convert = convert
        self._to: dict[str, Any] = {"dtype": dtype, "device": device}
        self._members = {
            block: [f"{block}.{member}" for member in members]
            for block, members in _fusable(decoder)
        }
        self._owners = {layer: block for block, layers in self._members.items() for layer in layers}
        self._arriving: dict[str, _Arriving] = {}

    def take(self, layer: str, leaf: str, tensor: Tensor) -> bool:
        """Take the weight or bias of `layer` if it will be fused; return whether it was taken."""
        block = self._owners.get(layer)
        if block is None:
            return False
        if block not in self._arriving:
            self._arriving[block] = self._begin(block)
        arriving = self._arriving[block]
        whole = arriving.weight if leaf == "weight" else arriving.bias
        assert whole is not None
        cast_into(whole[arriving.rows[layer]], tensor)
        arriving.missing.discard((layer, leaf))
        if not arriving.missing:
            self._fuse(block, self._arriving.pop(block))
        return True

    def _begin(self, block: str) -> _Arriving:
        linears = {
            layer: cast(Linear, self._decoder.get_submodule(layer))
            for layer in self._members[block]
        }
        ends = list(itertools.accumulate(linear.out_features for linear in linears.values()))
        starts = [0, *ends]
        first = next(iter(linears.values()))
        return _Arriving(
            weight=torch.empty(ends[-1], first.in_features, **self._to),
            bias=None if first.bias is None else torch.empty(ends[-1], **self._to),
            rows={layer: slice(starts[i], ends[i]) for i, layer in enumerate(linears)},
            missing={
                (layer, leaf)
                for layer, linear in linears.items()
                for leaf, _ in linear.named_parameters()
            },
        )

    def _fuse(self, block: str, whole: _Arriving) -> None:
        bias = None if whole.bias is None else nn.Parameter(whole.bias)
        _fuse(self._decoder, block, self._convert(f"{block}.fused", whole.weight, bias))


def fuse_quantized(decoder: Decoder) -> None:
    """Make one layer of quantized projections on one input, where they are rounded alike."""
    for block, module in list(decoder.named_modules()):
        linears = [getattr(module, member) for member in getattr(module, "fuses", ())]
        if linears and (whole := _stacked(linears)) is not None:
            _fuse(decoder, block, whole)


def _fuse(decoder: Decoder, block: str, linear: LinearLike) -> None:
    module = cast(Fusable, decoder.get_submodule(block))
    parent, _, last = block.rpartition(".")
    setattr(decoder.get_submodule(parent), last, module.fused(linear))


def _stacked(linears: Sequence[nn.Module]) -> QuantizedLinear | None:
    """Return layers as one, None if they are not all quantized or not in one way."""
    layers = [linear for linear in linears if isinstance(linear, QuantizedLinear)]
    biases: list[Tensor] = [layer.bias for layer in layers if layer.bias is not None]
    if len(layers) < len(linears) or len(biases) not in (0, len(layers)):
        return None
    weights = [layer.quantized() for layer in layers]
    alike = len({type(weight) for weight in weights}) == 1
    if not alike or not all(_same(layers[0].inputs, layer.inputs) for layer in layers):
        return None
    try:
        weight = type(weights[0]).stacked(weights)
    except QuantizationError:
        return None
    bias = nn.Parameter(torch.cat(biases)) if biases else None
    return QuantizedLinear(weight, bias, layers[0].like.dtype, layers[0].inputs)


def _same(one: InputRounding | None, other: InputRounding | None) -> bool:
    if one is None or other is None:
        return one is other
    return one.same_as(other)


def _fusable(decoder: Decoder) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the blocks that can be fused: all their members are plain and biased alike."""
    for name, module in decoder.named_modules():
        members: tuple[str, ...] = getattr(module, "fuses", ())
        linears = [getattr(module, member) for member in members]
        plain = all(isinstance(linear, Linear) for linear in linears)
        if members and plain and len({linear.bias is None for linear in linears}) == 1:
            yield name, members

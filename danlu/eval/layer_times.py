"""How long the linear layers of a decoder take, by operator: where speed is gained or lost.

All layers of an operator are timed one after the other, as in a forward pass, so that weights come
from memory and not from the cache of the call before.
"""

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from danlu.models.decoder import Decoder
from danlu.nn.linear import LinearLike
from danlu.nn.packed import PackedLinear
from danlu.quantize.linear import QuantizedLinear

REPEATS = 3


@dataclass(frozen=True)
class LayerTimes:
    """Medians over repeats, summed over all layers of one operator.

    Attributes:
        operator: as reports call it.
        layers: how many.
        weights: numbers in their matrices.
        decode_ms: for one row each.
        prefill_ms: for the rows of a prompt each.
    """

    operator: str
    layers: int
    weights: int
    decode_ms: float
    prefill_ms: float


@torch.inference_mode()
def layer_times(decoder: Decoder, prompt_tokens: int) -> list[LayerTimes]:
    """Measure every linear layer on random rows, as it is served.

    Args:
        decoder: prepared for inference, in the dtype it is served in.
        prompt_tokens: rows of a prompt.
    """
    groups: dict[str, list[LinearLike]] = {}
    for _, linear in decoder.linears():
        groups.setdefault(operator_label(linear), []).append(linear)
    return [
        LayerTimes(
            label,
            len(layers),
            sum(layer.in_features * layer.out_features for layer in layers),
            1000 * _seconds(decoder, layers, 1),
            1000 * _seconds(decoder, layers, prompt_tokens),
        )
        for label, layers in groups.items()
    ]


def operator_label(linear: LinearLike) -> str:
    """Return what reports call the way a layer multiplies."""
    if isinstance(linear, QuantizedLinear):
        return linear.operator.label
    return "dense product, packed" if isinstance(linear, PackedLinear) else "dense product"


def _seconds(decoder: Decoder, layers: Sequence[LinearLike], rows: int) -> float:
    like = {"dtype": decoder.dtype, "device": decoder.device}
    inputs = {n: torch.randn(rows, n, **like) for n in {layer.in_features for layer in layers}}  # type: ignore[call-overload]
    times = []
    for _ in range(REPEATS + 1):
        start = time.perf_counter()
        for layer in layers:
            out = layer(inputs[layer.in_features])
        out.flatten()[0].item()  # waits for an accelerator
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])

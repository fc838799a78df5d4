"""Which version of GPTQ stored the zero points of a checkpoint, as its weights tell.

The first version stores zero points less one. Where weights are symmetric, all of them are the
middle, which tells the version. Otherwise: weights are about as often positive as negative, so
codes less their stored zero points are 0 on average in the second version, and 1 in the first.
"""

from collections.abc import Mapping, Sequence
from statistics import median, stdev

import torch
from torch import Tensor

from danlu.quantize.layouts.bits import WORD_BITS, unpack_stream

WORDS = 24  # of each output that are looked at: whole codes of any width
FEWEST_LAYERS = 8  # whose averages are trusted together
NEAR = 0.25
DOUBT = 0.1  # standard error of the averages, at most: few weights in 8 bits tell nothing


def stored_less(points: Sequence[Tensor], means: Sequence[float]) -> int | None:
    """Return by how much the zero points of a checkpoint are stored less; None: it cannot be told.

    Args:
        points: stored zero points of each layer, signed [G, out].
        means: of codes less stored zero points, of each layer where these are not all the same.
    """
    for less in (0, 1):
        if points and all(bool((stored == -less).all()) for stored in points):
            return less
        if _agree(means) and abs(median(means) - less) < NEAR:
            return less
    return None


def _agree(means: Sequence[float]) -> bool:
    return len(means) >= FEWEST_LAYERS and stdev(means) / len(means) ** 0.5 < DOUBT


def mean_above_zero_point(
    parts: Mapping[str, Tensor], stored_GO: Tensor, bits: int, inputs: int
) -> float:
    """Return the mean of codes less stored zero points, over the first inputs of a layer.

    Args:
        parts: tensors of the layer.
        stored_GO: its stored zero points, signed.
        bits: of a code.
        inputs: of the layer.
    """
    words = parts["qweight"][:WORDS]
    seen = min(inputs, len(words) * WORD_BITS // bits)
    codes_OI = unpack_stream(words.t(), bits, seen)
    even = torch.arange(inputs) // -(-inputs // len(stored_GO))
    groups_I = parts.get("g_idx", even)[:seen].long().clamp(0, len(stored_GO) - 1)
    return float((codes_OI.float() - stored_GO.float().t()[:, groups_I]).mean())

"""Layers that must be quantized alike, or engines and files could not hold them."""

from collections.abc import Iterator

from danlu.calibration.stages import stages
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder
from danlu.nn.moe import MixtureOfExperts

BLOCKS = "model.layers."


def groups_of_layers(decoder: Decoder) -> list[list[str]]:
    """Return the linear layers of all blocks in groups that need one scheme, in the model's order.

    One scheme have: layers on one input, which engines fuse (queries, keys and values; gate and
    up), layers that one published tensor holds, and the experts of a mixture, which are one
    operator there.

    Args:
        decoder: dense, or on the meta device.
    """
    linears = {name: layer for name, layer in decoder.linears() if name.startswith(BLOCKS)}
    layers = list(linears)
    group_of = {name: frozenset({name}) for name in layers}
    for together in [*stages(linears), *_together(decoder)]:
        members = [name for name in together if name in group_of]
        union = frozenset().union(*(group_of[name] for name in members))
        group_of |= dict.fromkeys(union, union)
    groups = dict.fromkeys(group_of[name] for name in layers)
    return [[name for name in layers if name in group] for group in groups]


def _together(decoder: Decoder) -> Iterator[list[str]]:
    """Yield layers that share a mixture of experts, or a published tensor."""
    for name, module in decoder.named_modules():
        if isinstance(module, MixtureOfExperts):
            inside = [inner for inner, _ in module.experts.named_modules()]
            yield [f"{name}.experts.{inner}" for inner in inside]
    for entry in published_layout(decoder).entries.values():
        yield [ours.removesuffix(".weight") for ours in entry.ours]

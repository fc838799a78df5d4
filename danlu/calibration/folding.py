"""Moving the size and the middle of channels from one layer into the next; outputs do not change.

Sources: SmoothQuant (arXiv:2211.10438, eq. 3) for scales, Outlier Suppression+ (arXiv:2304.09145,
eq. 3 and 4) for shifts. Sums are in float32; what is written back has the dtype it had.
"""

from collections.abc import Collection
from typing import cast

import torch
from torch import Tensor, nn

from danlu.errors import QuantizationError
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear
from danlu.nn.moe import CorrectedRouter, Router
from danlu.nn.norms import LayerNorm, RMSNorm
from danlu.nn.scaling import ScalingGroup

Source = RMSNorm | LayerNorm | Linear
Consumer = Linear | Router | CorrectedRouter


@torch.no_grad()
def fold_scale(decoder: Decoder, group: ScalingGroup, scale_I: Tensor) -> None:
    """Divide what the source gives by `scale_I`, and multiply the columns of all consumers by it.

    Args:
        decoder: changed in place.
        group: one of `decoder.scaling_groups()`, or a norm with all its layers.
        scale_I: positive, for each input of the consumers; equal where channels share a row.

    Raises:
        QuantizationError: if a layer is not dense, or a scale cannot be folded; nothing is changed.
    """
    source, consumers = _modules(decoder, group)
    if not bool(torch.isfinite(scale_I).all()) or not bool((scale_I > 0).all()):
        raise QuantizationError(
            f"Scales for {group.source} are not all positive and finite; expected positive numbers."
        )
    divisors = _by_source(group, scale_I, torch.ones(len(source.weight)))
    for parameter in (source.weight, _bias(source)):
        if parameter is not None:
            by_row = divisors.view(-1, *[1] * (parameter.ndim - 1))
            parameter.copy_(parameter.float() / by_row.to(parameter.device))
    for consumer in consumers:
        consumer.weight.copy_(consumer.weight.float() * scale_I.to(consumer.weight.device))


@torch.no_grad()
def fold_shift(decoder: Decoder, group: ScalingGroup, shift_I: Tensor) -> None:
    """Subtract `shift_I` from what the source gives, and let the consumers' biases make it good.

    Args:
        decoder: changed in place.
        group: one that `shift_obstacle` has nothing against.
        shift_I: for each input of the consumers; equal where channels share a row.

    Raises:
        QuantizationError: if the group cannot be shifted; nothing is changed.
    """
    source, consumers = _modules(decoder, group)
    obstacle = shift_obstacle(decoder, group)
    if obstacle is not None:
        raise QuantizationError(f"{group.source} cannot be shifted: {obstacle}.")
    moved = _by_source(group, shift_I, torch.zeros(len(source.weight)))
    bias = _bias(source)
    assert bias is not None
    bias.copy_(bias.float() - moved.to(bias.device))
    for consumer in consumers:
        added = _bias(consumer)
        assert added is not None
        added.copy_(added.float() + consumer.weight.float() @ shift_I.to(added.device))


def shift_obstacle(decoder: Decoder, group: ScalingGroup) -> str | None:
    """Return why a group cannot be shifted without a tensor that its files do not have, or None.

    A shift passes through a norm's bias, and through attention, whose weights sum to one; not
    through an activation or a gate.
    """
    if group.kind == "up":
        return f"a shift does not pass through the activation behind {group.source}"
    for name in (group.source, *group.consumers):
        if getattr(decoder.get_submodule(name), "bias", None) is None:
            return f"{name} has no bias in this architecture, and its files can hold none"
    return None


@torch.no_grad()
def storable_scale(
    decoder: Decoder,
    group: ScalingGroup,
    scale_I: Tensor,
    dtype: torch.dtype,
    rounded: Collection[str],
) -> Tensor:
    """Return a scale near `scale_I` that loses nothing when the model is stored in `dtype`.

    A norm divided by it is a number of `dtype`, so that only layers that are rounded anyway see
    what was multiplied. Where others read the source too, such as a router, it is a power of two,
    which is exact everywhere.

    Args:
        decoder: not changed.
        group: to be scaled.
        scale_I: positive.
        dtype: that norms are stored in.
        rounded: layers that will be rounded.
    """
    if not set(group.consumers) <= set(rounded):
        return scale_I.log2().round().exp2()
    if group.kind != "norm":
        return scale_I
    weight_I = _modules(decoder, group)[0].weight.float()
    folded_I = (weight_I / scale_I).to(dtype).float()
    exact_I = weight_I / folded_I
    usable = torch.isfinite(exact_I) & (exact_I > 0)
    return torch.where(usable, exact_I, scale_I)


@torch.no_grad()
def storable_shift(
    decoder: Decoder, group: ScalingGroup, shift_I: Tensor, dtype: torch.dtype
) -> Tensor:
    """Return a shift near `shift_I` that leaves the source a bias which is a number of `dtype`."""
    source, _ = _modules(decoder, group)
    bias = _bias(source)
    assert bias is not None
    bias_I = bias.float() if group.rows is None else bias.float()[list(group.rows)]
    return bias_I - (bias_I - shift_I).to(dtype).float()


def agreeing(group: ScalingGroup, values_I: Tensor) -> Tensor:
    """Return `values_I` [..., in] with the largest of the channels that share a row for each."""
    if group.rows is None:
        return values_I
    rows = torch.tensor(group.rows, device=values_I.device).expand(values_I.shape)
    lowest = values_I.new_full((*values_I.shape[:-1], max(group.rows) + 1), float("-inf"))
    return lowest.scatter_reduce(-1, rows, values_I, "amax").gather(-1, rows)


def _modules(decoder: Decoder, group: ScalingGroup) -> tuple[Source, list[Consumer]]:
    """Return the source and the consumers, which must be dense and without adapters."""
    names = (group.source, *group.consumers)
    modules = [decoder.get_submodule(name) for name in names]
    strange = [
        f"{name} ({type(module).__name__})"
        for name, module in zip(names, modules, strict=True)
        if not isinstance(module, Source | Consumer)
    ]
    if strange:
        raise QuantizationError(
            f"Nothing can be folded into {', '.join(strange)}; expected dense layers without "
            "adapters: fold before they are quantized."
        )
    return cast(Source, modules[0]), cast(list[Consumer], modules[1:])


def _bias(module: Source | Consumer) -> nn.Parameter | None:
    return getattr(module, "bias", None)


def _by_source(group: ScalingGroup, values_I: Tensor, neutral_R: Tensor) -> Tensor:
    """Return the values by outputs of the source; outputs that nobody reads keep `neutral_R`."""
    values_I = values_I.float().cpu()
    if group.rows is None:
        return values_I
    if not torch.equal(agreeing(group, values_I), values_I):
        raise QuantizationError(
            f"Channels that share a row of {group.source} have different values; expected equal "
            "ones, as `agreeing` makes them."
        )
    neutral_R[list(group.rows)] = values_I
    return neutral_R

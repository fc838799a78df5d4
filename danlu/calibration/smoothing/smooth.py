"""Smoothing of a block: scales are found for each group, and folded."""

from collections.abc import Collection

import torch
from torch import Tensor

from danlu.calibration.folding import agreeing, fold_scale, storable_scale
from danlu.calibration.method import BlockAtWork
from danlu.calibration.smoothing.groups import groups_to_fold, representatives
from danlu.calibration.smoothing.listening import Ranges, listen
from danlu.calibration.smoothing.scales import search, smoothing_scale
from danlu.calibration.smoothing.trial import Trial, dynamic_inputs, static_inputs
from danlu.config.quantize.w8a8 import SmoothConfig, W8A8Scheme
from danlu.nn.scaling import ScalingGroup


def smooth(
    block: BlockAtWork, names: Collection[str], scheme: W8A8Scheme, config: SmoothConfig
) -> None:
    """Fold scales into the norms and weights of a block; what it computes stays.

    Args:
        block: dense as a whole.
        names: layers that will be rounded; only what they read is smoothed.
        scheme: how they will be rounded.
        config: how scales are found.

    Raises:
        QuantizationError: if an activation is not finite.
    """
    groups = groups_to_fold(block, names, all_linears=config.all_linears)
    ranges = {group.source: Ranges(joined=config.sampler == "multi_step") for group in groups}
    listeners = {
        name: ranges[group.source]
        for group in groups
        for name in set(representatives(group, names).values())
    }
    listen(block, listeners, config.steps)
    for group in groups:
        if not ranges[group.source].heard_nothing:
            channels = _Channels(block, group, names, ranges[group.source], config)
            scale_I = _scale(channels, scheme, config)
            stored, decoder = block.stored_dtype, block.decoder
            fold_scale(decoder, group, storable_scale(decoder, group, scale_I, stored, names))


def _scale(channels: "_Channels", scheme: W8A8Scheme, config: SmoothConfig) -> Tensor:
    """Return the scale by the alpha of the config, or the best that is found."""
    if config.alpha is not None:
        return channels.curve(config.alpha)
    return search(channels.trial(scheme), channels.range_I, channels.curve, config)


class _Channels:
    """The channels of a group: how large they are, and which weights they meet.

    Attributes:
        range_I: size of the activations.
        weight_I: size of the weights of the layers that will be rounded.
    """

    def __init__(
        self,
        block: BlockAtWork,
        group: ScalingGroup,
        names: Collection[str],
        heard: Ranges,
        config: SmoothConfig,
    ) -> None:
        self._heard = heard
        self._stands_for = representatives(group, names)
        linears = block.linears()
        self._weights = {name: linears[name].weight.detach().float() for name in self._stands_for}
        largest = torch.stack([weight.abs().amax(0) for weight in self._weights.values()]).amax(0)
        is_span = config.ranges == "span"
        self.range_I = agreeing(group, heard.span() if is_span else heard.absolute())
        self.weight_I = agreeing(group, 2 * largest if is_span else largest)

    def curve(self, alpha: float) -> Tensor:
        """Return the scale of an exponent."""
        return smoothing_scale(self.range_I, self.weight_I, alpha)

    def trial(self, scheme: W8A8Scheme) -> Trial:
        """Return what tries scales on the inputs that were kept, rounded as the scheme says."""
        rows = self._heard.rows()
        heard = {name: rows[first] for name, first in self._stands_for.items() if first in rows}
        dynamic = scheme.activations == "dynamic"
        inputs = dynamic_inputs if dynamic else static_inputs(*self._heard.bounds())
        return Trial({name: self._weights[name] for name in heard}, heard, inputs)

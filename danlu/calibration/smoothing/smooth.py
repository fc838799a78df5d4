"""Smoothing of a block: scales are found for each group, and folded."""

from collections.abc import Collection

import torch
from torch import Tensor

from danlu.calibration.folding import agreeing, fold_scale, storable_scale
from danlu.calibration.method import BlockAtWork
from danlu.calibration.smoothing.groups import groups_to_fold, representatives
from danlu.calibration.smoothing.listening import Halves, Ranges, listen
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
    heard = {group.source: Halves(joined=config.sampler == "multi_step") for group in groups}
    listeners = {
        name: heard[group.source]
        for group in groups
        for name in set(representatives(group, names).values())
    }
    listen(block, listeners, config.steps)
    for group in groups:
        if not heard[group.source].whole.heard_nothing:
            channels = _Channels(block, group, names, heard[group.source], config)
            # Powers of equal numbers differ in the last bit where vectors end.
            scale_I = agreeing(group, channels.scale(scheme, config))
            stored, decoder = block.stored_dtype, block.decoder
            fold_scale(decoder, group, storable_scale(decoder, group, scale_I, stored, names))


class _Channels:
    """The channels of a group: what enters them, and which weights they meet."""

    def __init__(
        self,
        block: BlockAtWork,
        group: ScalingGroup,
        names: Collection[str],
        heard: Halves,
        config: SmoothConfig,
    ) -> None:
        self._group = group
        self._heard = heard
        self._is_span = config.ranges == "span"
        self._stands_for = representatives(group, names)
        linears = block.linears()
        self._weights = {name: linears[name].weight.detach().float() for name in self._stands_for}

    def scale(self, scheme: W8A8Scheme, config: SmoothConfig) -> Tensor:
        """Return the scale by the alpha of the config, or the best that is found."""
        range_I, weight_I = self._range(self._heard.whole), self._weight()
        if config.alpha is not None:
            return smoothing_scale(range_I, weight_I, config.alpha)
        trials = [self._trial(known, judge, scheme) for known, judge in self._heard.judges()]
        return search(trials, range_I, weight_I, config)

    def _range(self, heard: Ranges) -> Tensor:
        """Return the size of the activations."""
        return agreeing(self._group, heard.span() if self._is_span else heard.absolute())

    def _weight(self) -> Tensor:
        """Return the size of the weights of the layers that will be rounded."""
        largest_I = torch.stack([each.abs().amax(0) for each in self._weights.values()]).amax(0)
        return agreeing(self._group, 2 * largest_I if self._is_span else largest_I)

    def _trial(self, known: Ranges, judge: Ranges, scheme: W8A8Scheme) -> Trial:
        """Return what tries scales by `known` on the inputs that `judge` kept."""
        rows = judge.rows()
        heard = {name: rows[first] for name, first in self._stands_for.items() if first in rows}
        weights = {name: self._weights[name] for name in heard}
        dynamic = scheme.activations == "dynamic"
        inputs = dynamic_inputs if dynamic else static_inputs(*known.bounds())
        return Trial(weights, heard, self._range(known), inputs)

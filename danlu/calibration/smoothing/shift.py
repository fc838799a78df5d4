"""Shifting of a block: the middle of each channel becomes zero, and biases make it good."""

from collections.abc import Collection, Sequence

from torch import Tensor

from danlu.calibration.folding import agreeing, fold_shift, shift_obstacle, storable_shift
from danlu.calibration.method import BlockAtWork
from danlu.calibration.smoothing.groups import groups_to_fold, representatives
from danlu.calibration.smoothing.listening import Middle, RangeMiddle, SmoothedMean, listen
from danlu.config.quantize.w8a8 import ShiftConfig
from danlu.errors import QuantizationError, bullet_list
from danlu.nn.scaling import ScalingGroup

MIDDLES: dict[str, type[Middle]] = {"none": RangeMiddle, "ema": SmoothedMean}


def shift(block: BlockAtWork, names: Collection[str], config: ShiftConfig) -> None:
    """Fold shifts into the biases of a block; what it computes stays.

    Args:
        block: dense as a whole.
        names: layers that will be rounded; only what they read is shifted.
        config: which groups, and how their middles are found.

    Raises:
        QuantizationError: if nothing in the block can be shifted, or an activation is not finite.
    """
    groups = _shiftable(block, groups_to_fold(block, names, all_linears=config.all_linears))
    middles = {group.source: MIDDLES[config.sampler]() for group in groups}
    listeners = {
        name: middles[group.source]
        for group in groups
        for name in set(representatives(group, names).values())
    }
    listen(block, listeners, config.steps)
    for group in groups:
        middle_I = middles[group.source].middle()
        if middle_I is not None:
            shift_I, stored = _shared(group, middle_I), block.stored_dtype
            shift_I = storable_shift(block.decoder, group, shift_I, stored)
            fold_shift(block.decoder, group, shift_I)


def _shiftable(block: BlockAtWork, groups: Sequence[ScalingGroup]) -> list[ScalingGroup]:
    """Return the groups that can be shifted; if none can, say why."""
    obstacles = [shift_obstacle(block.decoder, group) for group in groups]
    found = [group for group, obstacle in zip(groups, obstacles, strict=True) if obstacle is None]
    if not found:
        reasons = bullet_list([obstacle for obstacle in obstacles if obstacle is not None])
        raise QuantizationError(
            f"Nothing in block {block.index} can be shifted:{reasons}\nExpected a model whose "
            "norms and linear layers have biases (LayerNorm: GPT-2, BLOOM, OPT). Set shift to "
            "null; smoothing needs no biases."
        )
    return found


def _shared(group: ScalingGroup, middle_I: Tensor) -> Tensor:
    """Return one middle for channels that share a row: that of their lowest and highest."""
    return (agreeing(group, middle_I) - agreeing(group, -middle_I)) / 2

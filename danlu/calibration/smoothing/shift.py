"""Shifting of a block: the middle of each channel becomes zero, and biases make it good."""

from collections.abc import Collection

from danlu.calibration.folding import agreeing, fold_shift, shift_obstacle, storable_shift
from danlu.calibration.method import BlockAtWork
from danlu.calibration.smoothing.groups import groups_to_fold, representatives
from danlu.calibration.smoothing.listening import Middle, RangeMiddle, SmoothedMean, listen
from danlu.config.quantize.w8a8 import ShiftConfig
from danlu.errors import QuantizationError, bullet_list

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
    groups = groups_to_fold(block, names, all_linears=config.all_linears)
    obstacles = {group.source: shift_obstacle(block.decoder, group) for group in groups}
    shifted = [group for group in groups if obstacles[group.source] is None]
    if not shifted:
        reasons = bullet_list([f"{name}: {reason}" for name, reason in obstacles.items()])
        raise QuantizationError(
            f"Nothing in block {block.index} can be shifted:\n{reasons}\nExpected a model whose "
            "norms and linear layers have biases (LayerNorm: GPT-2, BLOOM, OPT). Set shift to "
            "null; smoothing needs no biases."
        )
    middles = {group.source: MIDDLES[config.sampler]() for group in shifted}
    listeners = {
        name: middles[group.source]
        for group in shifted
        for name in set(representatives(group, names).values())
    }
    listen(block, listeners, config.steps)
    for group in shifted:
        middle_I = middles[group.source].middle()
        if middle_I is not None:
            shift_I = agreeing(group, middle_I)
            stored, decoder = block.stored_dtype, block.decoder
            fold_shift(decoder, group, storable_shift(decoder, group, shift_I, stored))

"""What of a block is smoothed or shifted for layers that will be rounded, and why not the rest."""

from collections.abc import Collection

from danlu.calibration.folding import shift_obstacle
from danlu.calibration.method import BlockAtWork
from danlu.config.quantize.w8a8 import W8A8Scheme
from danlu.nn.scaling import ScalingGroup


def groups_to_fold(
    block: BlockAtWork, names: Collection[str], *, all_linears: bool
) -> list[ScalingGroup]:
    """Return the groups of a block that some of the layers read.

    Args:
        block: asked for its groups.
        names: of layers.
        all_linears: not only those behind a norm.
    """
    return [
        group
        for group in block.decoder.scaling_groups(block.index)
        if (all_linears or group.kind == "norm") and not set(group.consumers).isdisjoint(names)
    ]


def representatives(group: ScalingGroup, names: Collection[str]) -> dict[str, str]:
    """Return, for each consumer among `names`, the one whose inputs stand for its own.

    Layers of one module get the same; each expert gets its own tokens.
    """
    firsts: dict[str, str] = {}
    consumers = [name for name in group.consumers if name in names]
    return {name: firsts.setdefault(name.rpartition(".")[0], name) for name in consumers}


def notes(block: BlockAtWork, name: str, scheme: W8A8Scheme) -> list[str]:
    """Return what of the scheme was not done for a layer, and why."""
    found = []
    if scheme.smooth is not None:
        groups = groups_to_fold(block, [name], all_linears=scheme.smooth.all_linears)
        if not groups:
            found.append("not smoothed: scales fold into no layer before it")
    if scheme.shift is not None:
        groups = groups_to_fold(block, [name], all_linears=scheme.shift.all_linears)
        reasons = [shift_obstacle(block.decoder, group) for group in groups]
        if not groups:
            found.append("not shifted: shifts fold into no layer before it")
        found += [f"not shifted: {reason}" for reason in reasons if reason is not None]
    return found

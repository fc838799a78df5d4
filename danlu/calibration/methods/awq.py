"""AWQ: scales fold into the layer before, then weights are clipped and rounded."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from danlu.calibration.folding import agreeing, fold_scale
from danlu.calibration.method import BlockAtWork, LayerInputs
from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.run import Scheme
from danlu.nn.scaling import ScalingGroup
from danlu.quantize.rounding.awq import (
    candidate_scales,
    few_rows,
    quantize_clipped,
    scale_error,
    weight_sizes,
)


class Awq:
    """Scales are searched for the whole block as it is dense, clipping layer by layer."""

    names = ("awq",)
    needs_text = True
    folds = True

    def prepare(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Fold the best scale of each group of layers into what feeds them."""
        assert isinstance(scheme, AwqScheme)
        groups = block.decoder.scaling_groups(block.index)
        read = {name for group in groups for name in group.consumers if name in names}
        heard = block.inputs([name for name in names if name in read])
        for group in groups:
            own = {name: heard[name] for name in group.consumers if name in heard}
            if any(inputs.count for inputs in own.values()):
                fold_scale(block.decoder, group, _best_scale(block, group, own, scheme))

    def quantize(self, block: BlockAtWork, names: Sequence[str], scheme: Scheme) -> None:
        """Clip and round each layer on what enters it now."""
        assert isinstance(scheme, AwqScheme)
        heard = block.inputs(names)
        layers = block.linears()
        for name in names:
            weight = layers[name].dense_weight().detach()
            rows = heard[name].rows_NI.to(weight.device)
            block.put(name, quantize_clipped(weight, rows, scheme, name))


@torch.no_grad()
def _best_scale(
    block: BlockAtWork,
    group: ScalingGroup,
    inputs: Mapping[str, LayerInputs],
    scheme: AwqScheme,
) -> Tensor:
    """Return the scale [in] that serves the layer that gains least best.

    The sum of their errors would buy a better v_proj with a worse k_proj, and a worse model.
    """
    layers = block.linears()
    weights = {name: layers[name].dense_weight() for name in inputs}
    rows = {name: few_rows(one.rows_NI) for name, one in inputs.items()}
    sizes_I = weight_sizes(list(weights.values()))
    means_I = _mean_inputs(list(inputs.values()))
    candidates = agreeing(group, candidate_scales(means_I, sizes_I, scheme.scale_steps))
    errors = [
        {name: scale_error(weights[name], rows[name], scale_I, scheme) for name in inputs}
        for scale_I in candidates
    ]
    costs = [_cost(found, errors[0]) for found in errors]
    return candidates[costs.index(min(costs))]


def _cost(errors: Mapping[str, float], unscaled: Mapping[str, float]) -> float:
    """Return the largest error of a role beside that without scales, experts taken together."""
    by_role: dict[str, list[float]] = {}
    for name, error in errors.items():
        if unscaled[name]:
            by_role.setdefault(name.rpartition(".")[2], []).append(error / unscaled[name])
    return max((sum(ratios) / len(ratios) for ratios in by_role.values()), default=1.0)


def _mean_inputs(inputs: Sequence[LayerInputs]) -> Tensor:
    """Return float32 [in], the mean magnitude of inputs over the tokens of all layers."""
    total = sum(one.count for one in inputs)
    means = [one.rows_NI.abs().mean(0) * (one.count / total) for one in inputs if one.count]
    return torch.stack(means).sum(0)


METHOD = Awq()

"""AWQ: channels with large inputs are scaled up before rounding, and large weights are clipped.

Source: AWQ (arXiv:2306.00978, sec. 3.2 for scales, sec. 4 for clipping), with the scales of
AutoAWQ 0.2, which also look at the size of the weights. What is minimised is the error of a layer's
outputs on a sample of its inputs, as rounding leaves it.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.rounding.rtn import SLICE_WEIGHTS, group_inputs, quantize_rtn

SMALLEST_PART = 1e-4  # of the largest channel, that a channel is taken for at least
CLIPPED_PARTS = tuple(1 - step / 20 for step in range(10))  # of a group's range that stay
SLICE_ERRORS = 2**20  # numbers at a time, for each part that is tried
SEARCH_ROWS = 512  # that scales are searched on
SCALES = torch.float16  # as the files hold them


def candidate_scales(inputs_I: Tensor, weights_I: Tensor, steps: int) -> Tensor:
    """Return the scales that are tried: float32 [2 * steps, in]; the first are all ones.

    Half of them are powers of the inputs' size (arXiv:2306.00978, eq. 5), half of its ratio to the
    weights' size; exponents run from 0 to 1.

    Args:
        inputs_I: mean magnitude of each input.
        weights_I: mean magnitude of the weights that read it.
        steps: exponents.
    """
    inputs_I, weights_I = _bounded(inputs_I), _bounded(weights_I)
    exponents = torch.arange(steps, device=inputs_I.device)[:, None] / steps
    by_inputs = inputs_I**exponents
    scales_CI = torch.cat((by_inputs, by_inputs / weights_I ** (1 - exponents)))
    middles = (scales_CI.amax(1, keepdim=True) * scales_CI.amin(1, keepdim=True)).sqrt()
    return scales_CI / middles


def _bounded(sizes_I: Tensor) -> Tensor:
    sizes_I = sizes_I.float()
    largest = sizes_I.max()
    if not bool(largest > 0):
        return torch.ones_like(sizes_I)
    return (sizes_I / largest).clamp(min=SMALLEST_PART)


def weight_sizes(weights_OI: Sequence[Tensor]) -> Tensor:
    """Return float32 [in], the mean magnitude of weights beside the largest of their rows."""
    total = torch.zeros(weights_OI[0].shape[1], device=weights_OI[0].device)
    for weight_OI in weights_OI:
        for rows in weight_OI.split(_rows_of_slice(weight_OI)):
            sizes = rows.float().abs()
            total += (sizes / sizes.amax(1, keepdim=True).clamp(min=1e-12)).sum(0)
    return total / sum(len(weight_OI) for weight_OI in weights_OI)


def scale_error(weight_OI: Tensor, rows_NI: Tensor, scale_I: Tensor, scheme: AwqScheme) -> float:
    """Return the squared error of the outputs, if inputs are divided by a scale.

    Args:
        weight_OI: the dense weight, without the scale.
        rows_NI: inputs, or fewer rows with the same moments (see `condensed`).
        scale_I: positive.
        scheme: how weights are rounded; nothing is clipped.
    """
    error = 0.0
    for rows in weight_OI.float().split(_rows_of_slice(weight_OI)):
        rounded = _rounded(rows * scale_I, scheme) / scale_I
        error += float((rows_NI @ (rounded - rows).T).square().sum())
    return error


def quantize_clipped(
    weight_OI: Tensor, rows_NI: Tensor, scheme: AwqScheme, name: str = "weight"
) -> IntegerGrid:
    """Return the weight on a grid, each group's range cut to the part that serves outputs best.

    Groups are cut one after the other, each for the error that all others leave, so that no output
    is worse off than without.

    Args:
        weight_OI: the dense weight.
        rows_NI: inputs, float32 [n, in]; none: nothing is cut.
        scheme: group size and symmetry, and whether to clip.
        name: of the layer, for errors.

    Raises:
        QuantizationError: if the group size does not divide the inputs, or a weight is not finite.
    """
    plain = quantize_rtn(weight_OI.float(), _grid(weight_OI, scheme, name), name)
    if not scheme.clip or not len(rows_NI):
        return plain.to(SCALES)
    root_NI = condensed(rows_NI)
    outputs = torch.arange(len(weight_OI), device=weight_OI.device)
    slices = [
        _clipped(weight_OI[which].float(), plain.rows(which), root_NI, scheme)
        for which in outputs.split(max(1, SLICE_ERRORS // max(len(root_NI), plain.group_size)))
    ]
    return IntegerGrid.stacked(slices).to(SCALES)


def _clipped(
    rows_OI: Tensor, plain: IntegerGrid, root_NI: Tensor, scheme: AwqScheme
) -> IntegerGrid:
    """Return some outputs with the best part of each group's range.

    Where all other groups leave an error e and a group X changes by t, the squared error changes by
    2 e^T X t + t^T X^T X t.
    """
    outputs = torch.arange(len(rows_OI), device=rows_OI.device)
    error_ON = (plain.dequantize() - rows_OI) @ root_NI.T
    chosen = []
    for start in range(0, rows_OI.shape[1], plain.group_size):
        inputs = slice(start, start + plain.group_size)
        root_Ng = root_NI[:, inputs]
        tried = _cut(rows_OI[:, inputs], scheme)
        weights_POg = tried.dequantize().unflatten(0, (-1, len(outputs)))
        changes_POg = weights_POg - weights_POg[0]
        growth_POg = 2 * (error_ON @ root_Ng) + changes_POg @ (root_Ng.T @ root_Ng)
        best_O = (growth_POg * changes_POg).sum(-1).argmin(0)
        error_ON += changes_POg[best_O, outputs] @ root_Ng.T
        chosen.append(tried.rows(best_O * len(outputs) + outputs))
    return _beside(chosen)


def _cut(weights_Og: Tensor, scheme: AwqScheme) -> IntegerGrid:
    """Return [parts * out, g]: a group of inputs with ever smaller parts of its range."""
    ends = weights_Og.amin(1, keepdim=True), weights_Og.amax(1, keepdim=True)
    cut = [weights_Og.clamp(part * ends[0], part * ends[1]) for part in CLIPPED_PARTS]
    rows = scheme.model_copy(update={"group_size": -1})
    return quantize_rtn(torch.cat(cut), _grid(weights_Og, rows))


def _beside(groups: Sequence[IntegerGrid]) -> IntegerGrid:
    """Return one grid of groups of inputs, in order."""
    names = groups[0].tensors()
    joined = {name: torch.cat([group.tensors()[name] for group in groups], 1) for name in names}
    return groups[0].with_tensors(joined)


def few_rows(rows_NI: Tensor) -> Tensor:
    """Return rows to search on: exact ones where inputs are few, else a part of them, evenly."""
    if rows_NI.shape[1] <= SEARCH_ROWS:
        return condensed(rows_NI)
    return rows_NI[:: max(1, len(rows_NI) // SEARCH_ROWS)]


def condensed(rows_NI: Tensor) -> Tensor:
    """Return at most `in` rows with the moments of all: |X d| is the same for every d."""
    if len(rows_NI) <= rows_NI.shape[1]:
        return rows_NI
    root: Tensor = torch.linalg.qr(rows_NI, mode="r").R
    return root


def _rounded(rows_OI: Tensor, scheme: AwqScheme) -> Tensor:
    return quantize_rtn(rows_OI, _grid(rows_OI, scheme)).dequantize()


def _grid(weight_OI: Tensor, scheme: AwqScheme, name: str = "weight") -> QuantScheme:
    size = group_inputs(weight_OI.shape[1], scheme.method, scheme.group_size, name)
    return QuantScheme(bits=scheme.bits, group_size=size, symmetric=scheme.symmetric)


def _rows_of_slice(weight_OI: Tensor) -> int:
    return max(1, SLICE_WEIGHTS // weight_OI.shape[1])

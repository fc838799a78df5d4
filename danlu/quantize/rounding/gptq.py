"""GPTQ: inputs are rounded one after the other, each making good what those before it lost.

Source: arXiv:2210.17323; the mathematics is in `danlu.quantize.rounding.curvature`. What is lost is
handed on from half to half, so that nearly all of the work is large matrix products.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.config.quantize.gptq import GptqScheme
from danlu.quantize.grid import IntegerGrid, regular_groups
from danlu.quantize.rounding.curvature import most_active_first, standing_in
from danlu.quantize.rounding.rtn import check_finite, code_range, grid_of, group_inputs

# Inputs whose groups get their scales at once, from weights as they are best after all that was
# rounded before. As many as in the published implementation: so codes are the same.
SPAN = 128


class Solved(NamedTuple):
    """What GPTQ found.

    Attributes:
        weight: rounded.
        notes: what is worth knowing about it.
    """

    weight: IntegerGrid
    notes: tuple[str, ...]


@torch.no_grad()
def quantize_gptq(
    weight_OI: Tensor, moment_II: Tensor, scheme: GptqScheme, name: str = "weight"
) -> Solved:
    """Return the weight rounded so that the outputs change least; scales keep its dtype.

    Several layers of one input are rounded together as one weight: outputs do not see each other.

    Args:
        weight_OI: the dense weight [out, in].
        moment_II: float32 mean of x x^T over the inputs of the layer, on any device.
        scheme: how.
        name: of the layer, for errors.

    Raises:
        QuantizationError: if the group size does not divide the inputs, or weight or moment are
            not finite.
    """
    inputs = weight_OI.shape[1]
    size = group_inputs(inputs, scheme.method, scheme.group_size, name)
    check_finite(weight_OI, name)
    moment_II = moment_II.to(weight_OI.device)
    order = torch.arange(inputs, device=weight_OI.device)
    if scheme.act_order:
        order = most_active_first(moment_II)
    grids = _Grids(weight_OI, size, scheme)
    places = torch.arange(inputs, device=weight_OI.device)
    if scheme.act_order and scheme.static_groups:
        grids.fit(weight_OI.float().t(), 0)
        places = order
    groups = places // size  # of each input, in the order of rounding
    factor_II, damping = standing_in(moment_II, order, scheme.damping, name)
    rounding = _Rounding(weight_OI.float().t()[order].contiguous(), factor_II, grids, groups)
    rounding.run()
    weight = grids.weight(_in_place(rounding.codes_IO, order), _in_place(groups, order))
    return Solved(weight, _notes(moment_II, damping, scheme))


def _notes(moment_II: Tensor, damping: float, scheme: GptqScheme) -> tuple[str, ...]:
    silent = int((moment_II.diagonal() <= 0).sum())
    notes = []
    if 0 < silent < len(moment_II):
        notes.append(f"{silent} of {len(moment_II)} inputs are always zero on the calibration text")
    if damping > scheme.damping:
        notes.append(f"damping raised from {scheme.damping:g} to {damping:g}")
    return tuple(notes)


def _in_place(values: Tensor, order: Tensor) -> Tensor:
    """Return rows, which are in the order of rounding, in that of the inputs."""
    return torch.empty_like(values).index_copy_(0, order, values)


class _Grids:
    """The numbers that codes of each group stand for, outputs side by side."""

    def __init__(self, weight_OI: Tensor, group_size: int, scheme: GptqScheme) -> None:
        outputs, inputs = weight_OI.shape
        shape = (inputs // group_size, outputs)
        self.group_size = group_size
        self._scheme, self._dtype = scheme, weight_OI.dtype
        self._range = code_range(scheme.bits)
        self._scales_GO = torch.empty(shape, device=weight_OI.device)
        self._zeros_GO = None if scheme.symmetric else torch.empty_like(self._scales_GO)
        self.fitted = False

    def fit(self, weights_IO: Tensor, first: int) -> None:
        """Find the grids of groups from `first` on, of inputs that follow each other."""
        groups_GgO = weights_IO.unflatten(0, (-1, self.group_size))
        if self._scheme.symmetric:
            scales_GO, zeros_GO = _signed_scales(groups_GgO, self._scheme.bits, self._dtype), None
        else:
            scales_GO, zeros_GO = grid_of(groups_GgO, 1, self._scheme.bits, False, self._dtype)
        which = slice(first, first + len(scales_GO))
        self._scales_GO[which] = scales_GO.float()
        if self._zeros_GO is not None and zeros_GO is not None:
            self._zeros_GO[which] = zeros_GO
        self.fitted = which.stop == len(self._scales_GO)

    def round(self, wanted_O: Tensor, group: int) -> tuple[Tensor, Tensor]:
        """Return codes, and the steps from zero that they stand for: both float32 [out]."""
        codes = (wanted_O / self._scales_GO[group]).round_()
        if self._zeros_GO is None:
            codes.clamp_(*self._range)
            return codes, codes
        codes.add_(self._zeros_GO[group]).clamp_(*self._range)
        return codes, codes - self._zeros_GO[group]

    def scales(self, group: int) -> Tensor:
        """Return the scales [out] of a group."""
        return self._scales_GO[group]

    def weight(self, codes_IO: Tensor, groups: Tensor) -> IntegerGrid:
        """Return the weight of these codes, given the group of each input."""
        zeros_GO = self._zeros_GO
        return IntegerGrid(
            codes=codes_IO.t().contiguous(),
            scales=self._scales_GO.t().to(self._dtype).contiguous(),
            zero_points=None if zeros_GO is None else zeros_GO.t().to(torch.int8).contiguous(),
            bits=self._scheme.bits,
            groups=regular_groups(groups, len(self._scales_GO)),
        )


def _signed_scales(groups_GgO: Tensor, bits: int, dtype: torch.dtype) -> Tensor:
    """Return scales [G, out] without zero points, some of them negative.

    There is one code more below zero than above: it goes to the side on which a group reaches
    farther, by the sign of its scale. The other side may lie half a step beyond its last code.
    """
    low, high = code_range(bits)
    above_GO, below_GO = groups_GgO.amax(1), -groups_GgO.amin(1)
    longer_GO = torch.maximum(above_GO, below_GO)
    shorter_GO = torch.minimum(above_GO, below_GO)
    steps_GO = torch.maximum(longer_GO / -low, shorter_GO / (high + 0.5))
    scales_GO = torch.where(above_GO > below_GO, -steps_GO, steps_GO).to(dtype)
    return torch.where(scales_GO == 0, torch.ones_like(scales_GO), scales_GO)


class _Rounding:
    """One weight while its inputs are rounded.

    Attributes:
        codes_IO: int8, of the inputs that are rounded.
    """

    def __init__(self, weight_IO: Tensor, factor_II: Tensor, grids: _Grids, groups: Tensor) -> None:
        self._weight_IO, self._factor_II, self._grids = weight_IO, factor_II, grids
        self._groups: list[int] = groups.tolist()
        self._fits = not grids.fitted
        self._span = max(1, SPAN // grids.group_size) * grids.group_size
        # Of inputs to come: what they should be rounded to, as far as it is known. Of rounded ones:
        # what was lost, weight - rounded weight.
        self._wanted_IO = weight_IO.clone()
        self.codes_IO = torch.empty_like(weight_IO, dtype=torch.int8)

    def run(self) -> None:
        """Round all inputs."""
        self._halves(0, len(self.codes_IO), self._span, self._round_span)

    def _halves(self, start: int, stop: int, unit: int, finish: Callable[[int, int], None]) -> None:
        """Finish each unit of inputs after it got what all before it lost."""
        if stop - start <= unit:
            finish(start, stop)
            return
        middle = start + -(-(stop - start) // unit) // 2 * unit
        self._halves(start, middle, unit, finish)
        share_II = self._factor_II[start:middle, middle:stop]
        self._wanted_IO[middle:stop].addmm_(share_II.t(), self._wanted_IO[start:middle])
        self._halves(middle, stop, unit, finish)

    def _round_span(self, start: int, stop: int) -> None:
        if self._fits:
            self._grids.fit(self._best(start, stop), start // self._grids.group_size)
        self._halves(start, stop, 1, self._round_input)

    def _best(self, start: int, stop: int) -> Tensor:
        """Return the best weights of a span if none of it were rounded; all before it are."""
        own_IO = self._weight_IO[start:stop]
        got_IO = self._wanted_IO[start:stop] - own_IO
        among_II = self._factor_II[start:stop, start:stop].t()
        more_IO: Tensor = torch.linalg.solve_triangular(
            among_II, got_IO, upper=False, unitriangular=True
        )
        return own_IO + more_IO

    def _round_input(self, place: int, _: int) -> None:
        wanted_O, group = self._wanted_IO[place], self._groups[place]
        codes_O, steps_O = self._grids.round(wanted_O, group)
        self.codes_IO[place] = codes_O
        scales_O = self._grids.scales(group)
        torch.addcmul(self._weight_IO[place], steps_O, scales_O, value=-1, out=wanted_O)

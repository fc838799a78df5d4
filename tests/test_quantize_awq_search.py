"""AWQ: scales and clipping found on what enters the layers."""

import pytest
import torch
from torch import Tensor

from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.rounding.awq import (
    candidate_scales,
    condensed,
    quantize_clipped,
    scale_error,
    weight_sizes,
)
from danlu.quantize.rounding.rtn import quantize_rtn

SCHEME = AwqScheme(group_size=16)
PLAIN = QuantScheme(bits=4, group_size=16, symmetric=False)


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def output_errors(weight: IntegerGrid, dense_OI: Tensor, rows_NI: Tensor) -> Tensor:
    return (rows_NI @ (weight.dequantize(torch.float32) - dense_OI).T).square().sum(0)


def test_a_channel_with_large_inputs_is_scaled_up() -> None:
    weight, rows = random(48, 64), random(200, 64, seed=1)
    rows[:, 5] *= 40
    scales = candidate_scales(rows.abs().mean(0), weight_sizes([weight]), 20)
    assert scales.shape == (40, 64)
    assert torch.equal(scales[0], torch.ones(64))
    errors = [scale_error(weight, rows, scale, SCHEME) for scale in scales]
    best = scales[errors.index(min(errors))]
    assert float(best[5]) > 2 * float(best.median())
    assert min(errors) < 0.5 * errors[0]


def test_the_error_of_a_scale_is_that_of_the_rounded_outputs() -> None:
    weight, rows, scale = random(32, 64), random(20, 64, seed=1), random(64, seed=2).exp()
    rounded = quantize_rtn(weight * scale, PLAIN).dequantize() / scale
    wanted = (rows @ (rounded - weight).T).square().sum()
    assert scale_error(weight, rows, scale, SCHEME) == pytest.approx(float(wanted), rel=1e-5)


def test_condensed_rows_give_the_same_errors() -> None:
    rows, directions = random(300, 24), random(24, 7, seed=1)
    few = condensed(rows)
    assert few.shape == (24, 24)
    assert torch.allclose(
        (few @ directions).norm(dim=0), (rows @ directions).norm(dim=0), rtol=1e-4
    )
    assert condensed(rows[:10]).shape == (10, 24)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [16, -1])
def test_clipping_makes_no_output_worse(group_size: int, symmetric: bool) -> None:
    weight, rows = random(40, 64), random(100, 64, seed=1)
    weight[:, ::16] *= 3
    scheme = AwqScheme(group_size=group_size, symmetric=symmetric)
    plain = quantize_clipped(weight, rows, scheme.model_copy(update={"clip": False}))
    clipped = quantize_clipped(weight, rows, scheme)
    before, after = (output_errors(grid, weight, rows) for grid in (plain, clipped))
    assert bool((after <= before * 1.001).all())
    assert float(after.sum()) < 0.98 * float(before.sum())
    assert clipped.scales.dtype == torch.float16


def test_without_clipping_or_inputs_weights_are_rounded_to_nearest() -> None:
    weight, rows = random(40, 64), random(100, 64, seed=1)
    nearest = quantize_rtn(weight, PLAIN)
    for grid in (
        quantize_clipped(weight, rows, SCHEME.model_copy(update={"clip": False})),
        quantize_clipped(weight, rows[:0], SCHEME),
    ):
        assert torch.equal(grid.codes, nearest.codes)


def test_groups_must_divide_the_inputs() -> None:
    with pytest.raises(QuantizationError, match="48 inputs, which groups of 32 do not divide"):
        quantize_clipped(random(8, 48), random(4, 48), AwqScheme(group_size=32), "q_proj")

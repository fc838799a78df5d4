"""GPTQ's solver: against the published algorithm, against a stock tool, on moments without rank."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.quantize.rounding.curvature import SecondMoment
from danlu.quantize.rounding.gptq import quantize_gptq
from danlu.quantize.rounding.rtn import quantize_rtn


def moment_of(x_NI: Tensor) -> Tensor:
    moment = SecondMoment(x_NI.shape[1])
    for part in x_NI.split(100):
        moment.add(part)
    return moment.mean()


def inputs(count: int, features: int, seed: int = 0) -> Tensor:
    """Inputs that go together, some of them much larger than others."""
    generator = torch.Generator().manual_seed(seed)
    mixed = torch.randn(count, features, generator=generator)
    mixed = mixed @ torch.randn(features, features, generator=generator) / features**0.5
    return mixed * torch.rand(features, generator=generator).exp()


def random_weight(outputs: int, features: int) -> Tensor:
    return torch.randn(outputs, features, generator=torch.Generator().manual_seed(1)) * 0.05


def error(x_NI: Tensor, weight_OI: Tensor, rounded_OI: Tensor) -> float:
    x, exact = x_NI.double(), weight_OI.double()
    return float((x @ (rounded_OI.double() - exact).T).norm() / (x @ exact.T).norm())


def published(weight_OI: Tensor, moment_II: Tensor, scheme: GptqScheme) -> Tensor:
    """GPTQ as its paper writes it (algorithm 1): inverse, column by column, float64."""
    weight, hessian = weight_OI.double().clone(), moment_II.double().clone()
    hessian.diagonal().add_(scheme.damping * hessian.diagonal().mean())
    inverse = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True)
    half, rounded = 2 ** (scheme.bits - 1), torch.empty_like(weight)
    for i in range(weight.shape[1]):
        if i % 128 == 0:  # every group of a block gets its scale when the block is reached
            block = weight[:, i : i + 128].unflatten(1, (-1, scheme.group_size))
            above, below = block.amax(-1), -block.amin(-1)
            longer, shorter = torch.maximum(above, below), torch.minimum(above, below)
            steps = torch.maximum(longer / half, shorter / (half - 0.5))
            scales = torch.where(above > below, -steps, steps).float().double()
        scale = scales[:, i % 128 // scheme.group_size]
        rounded[:, i] = (weight[:, i] / scale).round().clamp(-half, half - 1) * scale
        lost = (weight[:, i] - rounded[:, i]) / inverse[i, i]
        weight[:, i:] -= lost[:, None] * inverse[i, i:]
    return rounded.float()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_rounded_weights_are_those_of_the_published_algorithm(bits: int) -> None:
    x_NI, weight_OI = inputs(600, 192), random_weight(40, 192)
    moment_II = moment_of(x_NI)
    assert torch.allclose(moment_II, x_NI.T @ x_NI / 600, atol=1e-5)
    scheme = GptqScheme(bits=bits, group_size=32, act_order=False)
    weight, notes = quantize_gptq(weight_OI, moment_II, scheme)
    expected = published(weight_OI, moment_II, scheme)
    equal = (weight.dequantize() - expected).abs() <= 1e-6 * weight_OI.abs().max()
    assert float(equal.float().mean()) > 0.98  # a near tie moves what follows it in its row
    assert weight.groups is None
    assert notes == ()


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("gptq_noact", {"act_order": False}),
        ("gptq_act", {"static_groups": False}),
        ("gptq_gar", {}),  # the tool's own way to keep groups as runs of inputs
    ],
)
def test_errors_are_below_those_of_the_stock_tool(
    variant: str, changes: dict[str, bool], shared: Path
) -> None:
    folder = shared / "interop-quant" / "calib-gptq"
    case = load_file(folder / "calibration.safetensors")
    theirs = json.loads((folder / "about.json").read_text())["tool_error"][variant]
    scheme = GptqScheme(group_size=32, damping=0.01, **changes)
    weight, _ = quantize_gptq(case["W"], moment_of(case["X"]), scheme)
    assert error(case["X"], case["W"], weight.dequantize()) <= 0.97 * theirs
    if variant == "gptq_act":
        assert weight.groups is not None
        assert torch.equal(weight.groups, case["gptq_act.g_idx"])


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("group_size", [16, 96, 192, -1])
@pytest.mark.parametrize(
    "order", [{"act_order": False}, {"static_groups": False}, {"static_groups": True}]
)
def test_every_form_loses_less_than_rounding(
    order: dict[str, bool], group_size: int, symmetric: bool
) -> None:
    x_NI, weight_OI = inputs(500, 192), random_weight(24, 192).bfloat16()
    scheme = GptqScheme(bits=3, group_size=group_size, symmetric=symmetric, **order)
    weight, _ = quantize_gptq(weight_OI, moment_of(x_NI), scheme)
    plain = quantize_rtn(weight_OI, QuantScheme(bits=3, group_size=group_size, symmetric=symmetric))
    ours = error(x_NI, weight_OI, weight.dequantize(torch.float32))
    assert ours < 0.9 * error(x_NI, weight_OI, plain.dequantize(torch.float32))
    assert weight.scales.dtype == torch.bfloat16
    moving = order == {"static_groups": False} and weight.scales.shape[1] > 1
    assert (weight.groups is None) == (not moving)
    assert (weight.zero_points is None) == symmetric


def test_layers_of_one_input_can_be_solved_together() -> None:
    x_NI, scheme = inputs(400, 64), GptqScheme(group_size=32)
    moment_II = moment_of(x_NI)
    one, other = random_weight(48, 64).split([16, 32])
    together, _ = quantize_gptq(torch.cat((one, other)), moment_II, scheme)
    for rows, weight_OI in ((slice(0, 16), one), (slice(16, 48), other)):
        alone, _ = quantize_gptq(weight_OI, moment_II, scheme)
        assert torch.equal(together.rows(rows).codes, alone.codes)


def test_a_singular_moment_succeeds_and_says_what_it_took() -> None:
    """Three rows of text for 256 inputs, with hardly any damping: the ladder is climbed."""
    x_NI, weight_OI = 100 * inputs(3, 256), random_weight(32, 256)
    scheme = GptqScheme(bits=4, group_size=32, damping=1e-12)
    weight, notes = quantize_gptq(weight_OI, moment_of(x_NI), scheme)
    assert error(x_NI, weight_OI, weight.dequantize()) < 0.01
    assert [note for note in notes if note.startswith("damping raised from 1e-12 to ")]


@pytest.mark.parametrize("act_order", [True, False])
def test_inputs_that_never_occur_are_rounded_to_nearest(act_order: bool) -> None:
    x_NI, weight_OI = inputs(300, 64), random_weight(16, 64)
    x_NI[:, 32:] = 0
    scheme = GptqScheme(group_size=32, act_order=act_order)
    weight, notes = quantize_gptq(weight_OI, moment_of(x_NI), scheme)
    nearest = (weight_OI / weight.scales.repeat_interleave(32, 1)).round().clamp(-8, 7)
    assert torch.equal(weight.codes[:, 32:], nearest[:, 32:])
    assert not torch.equal(weight.codes[:, :32], nearest[:, :32])
    assert notes == ("32 of 64 inputs are always zero on the calibration text",)
    silent, _ = quantize_gptq(weight_OI, torch.zeros(64, 64), scheme)  # an expert nobody chose
    nearest = (weight_OI / silent.scales.repeat_interleave(32, 1)).round().clamp(-8, 7)
    assert torch.equal(silent.codes, nearest)  # as rounding to nearest


def test_bad_input_is_refused_with_the_name_of_the_layer() -> None:
    weight_OI, moment_II = random_weight(8, 64), torch.eye(64)
    with pytest.raises(QuantizationError, match="q_proj has 64 inputs, which groups of 48 do not"):
        quantize_gptq(weight_OI, moment_II, GptqScheme(group_size=48), "q_proj")
    broken = torch.eye(64)
    broken[3, 4] = torch.nan
    with pytest.raises(QuantizationError, match="inputs of q_proj are not finite"):
        quantize_gptq(weight_OI, broken, GptqScheme(group_size=32), "q_proj")
    with pytest.raises(QuantizationError, match=r"q_proj.*no Cholesky factor with a damping of 5;"):
        quantize_gptq(weight_OI, torch.eye(64) - 100.0, GptqScheme(group_size=32), "q_proj")
    weight_OI[2, 3] = torch.inf
    with pytest.raises(QuantizationError, match="q_proj holds values that are not finite"):
        quantize_gptq(weight_OI, moment_II, GptqScheme(group_size=32), "q_proj")


@pytest.mark.parametrize("bits", [2, 3])
def test_plain_rounding_has_two_and_three_bits_too(bits: int) -> None:
    weight_OI, half = random_weight(8, 64), 2 ** (bits - 1)
    weight = quantize_rtn(weight_OI, QuantScheme(bits=bits))
    assert weight.group_size == 32
    assert weight.zero_points is not None
    assert (int(weight.codes.min()), int(weight.codes.max())) == (-half, half - 1)
    steps = weight.scales.repeat_interleave(32, 1)
    assert bool(((weight.dequantize() - weight_OI).abs() <= 1.01 * steps).all())

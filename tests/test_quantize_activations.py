"""Inputs of quantized layers in 8 bits: their numbers, and products of integers."""

from typing import Literal

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.activations import DynamicPerToken, StaticPerTensor
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.operators.int8_activations import EmulatingOperator, Int8Operator, int8_product
from danlu.quantize.outliers import OutlierColumns, quantize_int8_rows
from danlu.quantize.rounding.rtn import quantize_rtn

ROUNDINGS = {
    "per token": DynamicPerToken(),
    "per token with zero points": DynamicPerToken(symmetric=False),
    "static": StaticPerTensor.of_range(-3.0, 2.0),
    "static with a zero point": StaticPerTensor.of_range(-1.0, 3.0, symmetric=False),
    "outliers": OutlierColumns(3.0),
    "no outliers": OutlierColumns(0.0),
}
INT8 = QuantScheme(bits=8)


def numbers(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def distance(one: Tensor, other: Tensor) -> float:
    return float((one - other).float().norm() / other.float().norm())


def test_scales_and_codes_are_those_of_the_formula() -> None:
    x = torch.tensor([[-127.5, 1.5, 2.5], [255.0, 3.0, -7.0], [0.0, 0.0, 0.0]])
    codes, scales, zeros, _ = DynamicPerToken().codes(x)
    assert scales[:2].tolist() == [[1], [2]]
    assert zeros is None
    assert codes.tolist() == [[-128, 2, 2], [127, 2, -4], [0, 0, 0]]
    x = torch.tensor([[-100.0, 155.0, 30.6], [510.0, 3.0, 9.0]])
    codes, scales, zeros, _ = DynamicPerToken(symmetric=False).codes(x)
    assert zeros is not None
    assert (scales.tolist(), zeros.tolist()) == ([[1], [2]], [[-28], [-128]])
    assert codes.tolist() == [[-128, 127, 3], [127, -126, -124]]
    cut = StaticPerTensor(torch.tensor([0.5]), torch.tensor([1], dtype=torch.int8))
    assert cut.rounded(torch.tensor([[0.7, 400.0, -400.0]])).tolist() == [[0.5, 63.0, -64.5]]


def test_columns_that_hold_a_large_input_stay_exact() -> None:
    x = torch.tensor([[1.0, -2.0, 7.0], [0.3, 2.5, 0.01]])
    codes, scales, _, exact = OutlierColumns(6.0).codes(x)
    assert exact is not None
    assert exact.which.tolist() == [2]
    assert torch.equal(exact.inputs, x[:, 2:].half().float())
    assert torch.equal(scales[:, 0], torch.tensor([2.0, 2.5]) / 127)
    assert codes.tolist() == [[64, -127, 0], [15, 127, 0]]
    huge = torch.tensor([[1e6, 1.0]])  # more than float16 holds
    assert torch.equal(OutlierColumns().rounded(huge), huge)


@pytest.mark.parametrize("name", ROUNDINGS)
@pytest.mark.parametrize(
    ("rows", "outputs", "inputs", "dtype"),
    [
        (1, 64, 96, torch.float32),
        (7, 5, 33, torch.float32),
        (40, 64, 96, torch.bfloat16),
        (0, 8, 16, torch.float32),
    ],
)
def test_integer_products_equal_the_reference(
    name: str, rows: int, outputs: int, inputs: int, dtype: torch.dtype
) -> None:
    rounding = ROUNDINGS[name]
    weight = quantize_rtn(numbers(outputs, inputs, dtype=dtype), INT8)
    x = numbers(rows, inputs, seed=1, dtype=dtype)
    layer = QuantizedLinear(weight, None, dtype, rounding)
    assert isinstance(layer.operator, Int8Operator)
    with torch.inference_mode():
        wanted = F.linear(rounding.rounded(x.float()), weight.dequantize(torch.float32))
        out = layer(x)
        assert out.dtype == dtype
        assert out.shape == (rows, outputs)
        assert torch.allclose(out.float(), wanted, atol=1e-4, rtol=2**-8)
        emulated = EmulatingOperator(weight, rounding).multiply(x)
        assert torch.allclose(emulated.float(), wanted, atol=1e-4 if rows < 40 else 0.1, rtol=0.02)
    assert torch.equal(layer.quantized().dequantize(), weight.dequantize())


def test_large_batches_are_multiplied_part_by_part(monkeypatch: pytest.MonkeyPatch) -> None:
    weight, x = quantize_rtn(numbers(6, 32), INT8), numbers(11, 32, seed=1)
    for rounding in ROUNDINGS.values():
        layer = QuantizedLinear(weight, None, inputs=rounding)
        whole = layer(x)
        with monkeypatch.context() as patch:
            patch.setattr("danlu.quantize.operators.int8_activations.SLICE_PRODUCTS", 4 * 6)
            assert torch.allclose(layer(x), whole, atol=1e-6)


def test_sums_are_exact() -> None:
    codes = torch.full((3, 100_000), -128, dtype=torch.int8)
    codes[0, 0] = 127
    assert int8_product(codes, codes).tolist()[0] == [
        99_999 * 2**14 + 127**2,
        *[99_999 * 2**14 - 128 * 127] * 2,
    ]


@pytest.mark.parametrize("bits", [4, 8])
def test_weights_in_groups_are_multiplied_by_what_rounded_inputs_stand_for(
    bits: Literal[4, 8],
) -> None:
    weight = quantize_rtn(numbers(64, 64), QuantScheme(bits=bits, group_size=32, symmetric=False))
    layer, x = QuantizedLinear(weight, None, inputs=DynamicPerToken()), numbers(3, 64, seed=1)
    assert layer.operator.label.startswith("rounded inputs, ")
    with torch.inference_mode():
        wanted = F.linear(DynamicPerToken().rounded(x), layer.dense_weight())
        assert distance(layer(x), wanted) < 1e-5
    assert isinstance(layer.inputs, DynamicPerToken)


@pytest.mark.parametrize("name", ["per token", "static with a zero point", "outliers"])
def test_training_computes_what_is_served_and_passes_rounding_through(name: str) -> None:
    weight = quantize_rtn(numbers(24, 32), INT8)
    layer = QuantizedLinear(weight, None, inputs=ROUNDINGS[name])
    x = numbers(2, 5, 32, seed=1).requires_grad_()
    out = layer(x)
    with torch.inference_mode():
        assert torch.equal(out, layer(x))
    out.square().sum().backward()
    assert x.grad is not None
    assert torch.allclose(x.grad, 2 * out.detach() @ layer.dense_weight(), atol=1e-4)


def test_a_scale_keeps_its_bits_where_the_model_is_cast() -> None:
    static = StaticPerTensor.of_range(-1.0, 3.0, symmetric=False)
    layer = QuantizedLinear(quantize_rtn(numbers(4, 8), INT8), None, inputs=static)
    layer.to(torch.bfloat16)
    assert isinstance(layer.inputs, StaticPerTensor)
    assert torch.equal(layer.inputs.scale, static.scale)
    assert layer.inputs.scale.dtype == torch.float32
    assert torch.equal(layer.inputs.tensors()["zero_point"], static.tensors()["zero_point"])


@pytest.mark.parametrize("name", ["per token", "outliers"])
def test_inputs_that_are_not_finite_are_seen(name: str) -> None:
    layer = QuantizedLinear(quantize_rtn(numbers(4, 8), INT8), None, inputs=ROUNDINGS[name])
    x = numbers(2, 8, seed=1)
    x[1, 3] = float("nan")
    assert layer(x)[1].isnan().all()


def test_rows_of_llm_int8_use_the_whole_range() -> None:
    weight = numbers(5, 40)
    weight[2] = 0
    grid = quantize_int8_rows(weight)
    assert torch.equal(grid.scales[:, 0], weight.abs().amax(1) / 127)
    assert grid.codes.abs().amax(1).tolist() == [127, 127, 0, 127, 127]
    assert float((grid.dequantize() - weight).abs().max()) <= float(grid.scales.max()) / 2 + 1e-6
    assert isinstance(grid, IntegerGrid)


def test_every_rounding_can_be_put_elsewhere() -> None:
    for rounding in ROUNDINGS.values():
        again = rounding.with_tensors({n: t.clone() for n, t in rounding.tensors().items()})
        x = numbers(3, 16)
        assert torch.equal(again.rounded(x), rounding.rounded(x))
        assert rounding.summary.startswith("8 bits")

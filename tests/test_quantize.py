"""Quantized weights: error bounds, operators against the plain product, files to and fro."""

from pathlib import Path

import pytest
import torch
from checkpoints import HERE, assert_close, expected, tiny_checkpoint, tiny_decoder
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from danlu.config.base import Config
from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.scheme import PRESETS, QuantScheme
from danlu.errors import QuantizationError
from danlu.loading import load_decoder, save_decoder
from danlu.quantize.layouts.bits import pack, unpack
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.operators.choosing import choose_operator
from danlu.quantize.operators.int4_groups import Int4GroupOperator
from danlu.quantize.operators.int8_rows import Int8RowOperator
from danlu.quantize.operators.operator import DequantizeOperator
from danlu.quantize.rounding.awq import quantize_clipped
from danlu.quantize.rounding.gptq import quantize_gptq
from danlu.quantize.rounding.rtn import quantize_rtn

SCHEMES = [
    QuantScheme(bits=8),
    QuantScheme(bits=8, group_size=32, symmetric=False),
    QuantScheme(bits=4),
    QuantScheme(bits=4, group_size=64, symmetric=True),
    QuantScheme(bits=4, group_size=-1),
]


def weight(rows: int = 128, columns: int = 64, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))


def test_defaults_follow_the_bits() -> None:
    assert (PRESETS["int8"].group_size, PRESETS["int8"].symmetric) == (-1, True)
    assert (PRESETS["int4"].group_size, PRESETS["int4"].symmetric) == (None, False)


@pytest.mark.parametrize(
    ("inputs", "rtn", "gptq"), [(256, 32, 128), (192, 32, 64), (96, 32, 32), (172, 172, 172)]
)
def test_groups_that_nobody_asked_for_fit_the_layer(inputs: int, rtn: int, gptq: int) -> None:
    dense = weight(columns=inputs)
    assert quantize_rtn(dense, PRESETS["int4"]).group_size == rtn
    assert quantize_gptq(dense, torch.eye(inputs), GptqScheme(), "weight").weight.group_size == gptq
    assert quantize_clipped(dense, torch.zeros(0, inputs), AwqScheme(), "weight").group_size == gptq


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_error_is_at_most_half_a_step(scheme: QuantScheme, dtype: torch.dtype) -> None:
    dense = weight().to(dtype)
    quantized = quantize_rtn(dense, scheme)
    steps = quantized.scales.float().repeat_interleave(quantized.group_size, dim=1)
    error = (quantized.dequantize(torch.float32) - dense.float()).abs()
    # Half a step by rounding the code; an asymmetric range shifts by up to half a step more, and
    # a scale in half precision is itself rounded.
    bound = 0.5 if scheme.symmetric else 1.0
    assert float((error / steps).max()) <= bound + (1e-4 if dtype == torch.float32 else 0.3)


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("rows", [1, 3, 15, 16, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_operators_equal_the_dequantized_product(
    scheme: QuantScheme, rows: int, dtype: torch.dtype
) -> None:
    quantized = quantize_rtn(weight().to(dtype), scheme)
    x = torch.randn(rows, 64, generator=torch.Generator().manual_seed(1)).to(dtype)
    wanted = x.float() @ quantized.dequantize(torch.float32).T
    found = choose_operator(quantized).multiply(x)
    assert found.dtype == dtype
    assert_close(found, wanted, 1e-5 if dtype == torch.float32 else 1e-2)


def test_the_operator_fits_the_weight() -> None:
    def chosen(scheme: QuantScheme, rows: int = 128) -> type:
        return type(choose_operator(quantize_rtn(weight(rows), scheme)))

    assert chosen(QuantScheme(bits=8)) is Int8RowOperator
    assert chosen(QuantScheme(bits=4)) is Int4GroupOperator
    assert chosen(QuantScheme(bits=4), rows=100) is DequantizeOperator
    assert chosen(QuantScheme(bits=8, group_size=32, symmetric=True)) is DequantizeOperator


@pytest.mark.parametrize("scheme", SCHEMES)
def test_operators_give_the_codes_back(scheme: QuantScheme) -> None:
    quantized = quantize_rtn(weight(), scheme)
    back = choose_operator(quantized).quantized()
    assert torch.equal(back.codes, quantized.codes)
    assert torch.equal(back.scales, quantized.scales)
    if quantized.zero_points is not None:
        assert back.zero_points is not None
        assert torch.equal(back.zero_points, quantized.zero_points)


@given(
    bits=st.sampled_from([4, 8]), rows=st.integers(1, 5), count=st.integers(1, 40), seed=st.data()
)
@settings(max_examples=50, deadline=None)
def test_packing_is_invertible(bits: int, rows: int, count: int, seed: st.DataObject) -> None:
    number = seed.draw(st.integers(0, 2**31))
    generator = torch.Generator().manual_seed(number)
    half = 2 ** (bits - 1)
    codes = torch.randint(-half, half, (rows, count), generator=generator).to(torch.int8)
    words = pack(codes, bits)
    assert words.shape == (rows, -(-count * bits // 32))
    assert torch.equal(unpack(words, bits, count), codes)


@pytest.mark.parametrize("family", ["llama", "bloom", "chatglm2"])
@pytest.mark.parametrize("preset", ["int8", "int4"])
def test_quantized_folders_come_back_exactly(family: str, preset: str, tmp_path: Path) -> None:
    source = tiny_checkpoint(tmp_path / "source", family)
    scheme = PRESETS[preset].model_copy(update={"group_size": 16 if preset == "int4" else -1})
    quantized = load_decoder(source, quantize=scheme)
    save_decoder(quantized, tmp_path / "quantized")
    again = load_decoder(tmp_path / "quantized")
    ids = torch.arange(20).reshape(2, 10)
    with torch.inference_mode():
        found, wanted, dense = again(ids), quantized(ids), load_decoder(source)(ids)
    assert torch.equal(found, wanted)
    assert 0 < (found - dense).abs().max() < (0.5 if preset == "int8" else 8.0)
    assert any(isinstance(linear, QuantizedLinear) for _, linear in again.linears())


def test_a_folder_of_the_stock_tool_opens() -> None:
    folder = HERE / "interop-quant" / "ct-w4a16-g32"
    wanted = expected(folder)
    decoder = load_decoder(folder)
    for key, dense in wanted.items():
        if key.startswith("dequantized."):
            linear = decoder.get_submodule(key.removeprefix("dequantized.").removesuffix(".weight"))
            assert isinstance(linear, QuantizedLinear)
            assert_close(linear.dense_weight(), dense, 1e-6)
    with torch.inference_mode():
        assert_close(decoder(wanted["input_ids"]), wanted["dequant_logits"])
    with torch.inference_mode():
        fused = load_decoder(folder, for_inference=True)
        assert_close(fused(wanted["input_ids"]), wanted["dequant_logits"])


def test_gradients_flow_through_a_quantized_layer() -> None:
    quantized = quantize_rtn(weight(), QuantScheme(bits=4))
    layer = QuantizedLinear(quantized, None)
    x = torch.randn(3, 64, requires_grad=True)
    layer(x).sum().backward()
    assert x.grad is not None
    assert_close(x.grad, quantized.dequantize().sum(0).expand(3, -1), 1e-5)


def test_group_size_that_does_not_divide() -> None:
    with pytest.raises(QuantizationError, match="has 64 inputs, which groups of 48 do not divide"):
        quantize_rtn(weight(), QuantScheme(bits=4, group_size=48))


@pytest.mark.parametrize("scheme", [QuantScheme, GptqScheme, AwqScheme])
def test_groups_of_no_input(scheme: type[Config]) -> None:
    with pytest.raises(ValidationError, match="group_size is 0; expected a positive number"):
        scheme.model_validate({"group_size": 0})


def test_weights_that_are_not_finite() -> None:
    dense = weight()
    dense[3, 5] = float("nan")
    with pytest.raises(QuantizationError, match="up_proj holds values that are not finite"):
        quantize_rtn(dense, QuantScheme(bits=8), "up_proj")


def test_all_zero_groups_stay_zero() -> None:
    for scheme in SCHEMES:
        quantized = quantize_rtn(torch.zeros(64, 64), scheme)
        assert torch.equal(quantized.dequantize(), torch.zeros(64, 64))


def test_tied_models_keep_their_embedding_when_the_head_is_quantized(tmp_path: Path) -> None:
    decoder = tiny_decoder("bloom")
    save_decoder(decoder, tmp_path / "source")
    save_decoder(load_decoder(tmp_path / "source", quantize="int8"), tmp_path / "quantized")
    again = load_decoder(tmp_path / "quantized")
    assert torch.equal(again.model.embed_tokens.weight, decoder.model.embed_tokens.weight)
    assert isinstance(again.lm_head, QuantizedLinear)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_inputs_need_not_be_contiguous(scheme: QuantScheme) -> None:
    layer = QuantizedLinear(quantize_rtn(weight(), scheme), None)
    x = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(2))
    with torch.inference_mode():
        assert_close(layer(x[:, -1]), layer(x[:, -1].contiguous()), 1e-6)
        assert_close(layer(x.transpose(0, 1)), layer(x).transpose(0, 1), 1e-5)

"""bitsandbytes checkpoints: NF4, FP4, double quantization, LLM.int8()."""

import json
from pathlib import Path

import pytest
import torch
from quantized_cases import case, check_given_back, check_numbers, stored_tensors
from safetensors.torch import save_file

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import CheckpointError, QuantizationError
from danlu.loading import load_decoder
from danlu.quantize.format import find_format
from danlu.quantize.formats.bitsandbytes import FORMAT
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.layouts.stored_blocks import STATE
from danlu.quantize.rounding.blockwise import quantize_blockwise

CASES = ("bnb-nf4", "bnb-nf4-dq", "bnb-fp4", "bnb-int8")


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_tool(name: str) -> None:
    check_numbers(name)


@pytest.mark.parametrize("name", CASES)
def test_what_was_read_is_given_back(name: str, tmp_path: Path) -> None:
    before = json.loads((case(name) / "config.json").read_text())["quantization_config"]
    assert check_given_back(name, tmp_path)["quantization_config"] == before


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_weight_does_not_depend_on_the_dtype_of_the_model(dtype: torch.dtype) -> None:
    exact, rounded = load_decoder(case("bnb-nf4-dq")), load_decoder(case("bnb-nf4-dq"), dtype)
    for (_, one), (_, other) in zip(exact.linears(), rounded.linears(), strict=True):
        assert torch.equal(one.dense_weight().to(dtype), other.dense_weight())


@pytest.mark.parametrize("double_quant", [True, False])
@pytest.mark.parametrize("shape", [(24, 64), (7, 100), (5, 33)])
def test_any_weight_goes_to_and_fro(shape: tuple[int, int], double_quant: bool) -> None:
    scheme = QuantScheme(method="fp4", block_size=32, double_quant=double_quant)
    dense = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float16)
    weight = quantize_blockwise(dense, scheme)
    parts = FORMAT.encode(weight, {})
    assert parts["weight"].shape == (-(-dense.numel() // 2), 1)
    again = FORMAT.decode(parts, {})
    assert again.dtype == torch.float16
    for name, tensor in weight.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_codes_may_be_stored_as_numbers_of_another_dtype() -> None:
    weight = quantize_blockwise(torch.randn(8, 64), QuantScheme(method="nf4"))
    parts = FORMAT.encode(weight, {"bnb_4bit_quant_storage": "bfloat16"})
    assert parts["weight"].dtype == torch.bfloat16
    assert torch.equal(FORMAT.decode(parts, {}).dequantize(), weight.dequantize())


def test_int8_rows_keep_every_bit_of_their_scales() -> None:
    largest = torch.rand(20_000, generator=torch.Generator().manual_seed(0)) * 3 + 1e-6
    weight = IntegerGrid(torch.ones(20_000, 1, dtype=torch.int8), largest[:, None] / 127, None, 8)
    again = FORMAT.decode(FORMAT.encode(weight, {}), {})
    assert isinstance(again, IntegerGrid)
    assert torch.equal(again.scales, weight.scales)


def spoiled(folder: Path, **changes: torch.Tensor | None) -> str:
    source, layer = case("bnb-nf4-dq"), "model.layers.0.mlp.up_proj."
    tensors = stored_tensors(source)
    for name, tensor in changes.items():
        key = layer + name.replace("__", ".")
        key = next(known for known in tensors if known.startswith(key))
        if tensor is None:
            del tensors[key]
        else:
            tensors[key] = tensor
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(CheckpointError) as raised:
        load_decoder(folder)
    return str(raised.value)


@pytest.mark.parametrize(
    ("part", "tensor", "told"),
    [
        ("weight__absmax", None, "up_proj lacks weight.absmax"),
        ("weight__nested_absmax", None, "up_proj lacks weight.nested_absmax"),
        ("weight__quant_state", None, f"up_proj has 0 tensors {STATE}..."),
        ("weight__absmax", torch.zeros(3, dtype=torch.uint8), "3 scales; its quant_state tells of"),
        ("weight__quant_state", torch.tensor([123], dtype=torch.uint8), "cannot be read"),
    ],
)
def test_damaged_layers_are_told(
    part: str, tensor: torch.Tensor | None, told: str, tmp_path: Path
) -> None:
    assert told in spoiled(tmp_path, **{part: tensor})


def test_rows_laid_out_for_a_kernel_are_refused() -> None:
    parts = {"weight": torch.ones(4, 4, dtype=torch.int8), "SCB": torch.ones(4)}
    with pytest.raises(QuantizationError, match="weight_format 2, laid out for one kernel"):
        FORMAT.decode({**parts, "weight_format": torch.tensor(2)}, {})


def test_an_unknown_storage_is_refused() -> None:
    config = {"quant_method": "bitsandbytes", "bnb_4bit_quant_storage": "no_dtype"}
    with pytest.raises(QuantizationError, match="storage 'no_dtype'"):
        find_format(config)

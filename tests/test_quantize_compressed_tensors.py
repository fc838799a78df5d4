"""compressed-tensors: packed and plain integers, groups in any order, what is not computed."""

import json
import logging
import shutil
from pathlib import Path

import pytest
import torch
from quantized_cases import case, check_given_back, check_numbers, stored_tensors
from safetensors.torch import save_file

from danlu.errors import QuantizationError
from danlu.loading import load_decoder
from danlu.quantize.activations import DynamicPerToken
from danlu.quantize.format import find_format
from danlu.quantize.formats.compressed_tensors import FORMAT
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.layouts.bits import pack
from danlu.quantize.layouts.compressed_writing import PACKED

CASES = (
    "ct-w4a16-asym-g32",
    "ct-w4a16-g32",
    "ct-w4a16-noact",
    "ct-w8a16-channel",
    "ct-w8a8-smooth",
    "ct-w8a8-kv8",
)


def config(**weights: object) -> dict[str, object]:
    given = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", **weights}
    groups = {"group_0": {"weights": given, "format": PACKED}}
    return {"quant_method": "compressed-tensors", "format": PACKED, "config_groups": groups}


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_tool(name: str) -> None:
    check_numbers(name)


@pytest.mark.parametrize("name", CASES)
def test_what_was_read_is_given_back(name: str, tmp_path: Path) -> None:
    written = check_given_back(name, tmp_path)
    config = json.loads((case(name) / "config.json").read_text())["quantization_config"]
    assert written["quantization_config"]["kv_cache_scheme"] == config["kv_cache_scheme"]  # type: ignore[index]


@pytest.mark.parametrize("change", [{"type": "float"}, {"dynamic": True}, {"symmetric": False}])
def test_what_is_not_computed_is_told(
    change: dict[str, object], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = shutil.copytree(case("ct-w8a8-kv8"), tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"]["kv_cache_scheme"].update(change)
    (folder / "config.json").write_text(json.dumps(config))
    with caplog.at_level(logging.WARNING):
        decoder = load_decoder(folder)
    assert "keys and values are kept as they come" in caplog.text
    assert decoder.kv_cache is None


def test_a_cache_alone_is_read(tmp_path: Path) -> None:
    rounded = case("ct-w8a8-kv8")
    folder = shutil.copytree(case("base-llama"), tmp_path / "model")
    config = json.loads((rounded / "config.json").read_text())
    config["quantization_config"] |= {"config_groups": {}, "format": "dense"}
    (folder / "config.json").write_text(json.dumps(config))
    scales = {
        n: t for n, t in stored_tensors(rounded).items() if n.endswith(("k_scale", "v_scale"))
    }
    save_file(stored_tensors(folder) | scales, folder / "model.safetensors")
    found = load_decoder(folder).kv_cache
    assert found is not None
    assert found == load_decoder(rounded).kv_cache


def test_each_group_of_a_mixed_config_is_stored_in_its_own_form() -> None:
    codes = torch.randint(-8, 8, (16, 32), generator=torch.Generator().manual_seed(0))
    few = IntegerGrid(codes.to(torch.int8), torch.rand(16, 4) + 1, None, 4)
    rows = IntegerGrid(codes.to(torch.int8), torch.rand(16, 1) + 1, None, 8)
    inputs = {"rows": DynamicPerToken()}
    told = FORMAT.config_with_inputs({"few": few, "rows": rows}, inputs, [])
    assert "weight_packed" in FORMAT.encode(few, told)
    assert "weight" in FORMAT.encode(rows, told)
    assert FORMAT.fits(few, told)
    told["config_groups"]["more"] = {"weights": {"num_bits": 8}, "format": PACKED}
    assert not FORMAT.fits(rows, told)  # which of the two forms it has is not told


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_groups_in_any_order(bits: int) -> None:
    generator, half = torch.Generator().manual_seed(bits), 2 ** (bits - 1)
    codes = torch.randint(-half, half, (24, 40), generator=generator).to(torch.int8)
    points = torch.randint(-half, half, (24, 5), generator=generator).to(torch.int8)
    groups = torch.arange(40, dtype=torch.int32)[torch.randperm(40, generator=generator)] // 8
    weight = IntegerGrid(codes, torch.rand(24, 5, generator=generator), points, bits, groups)
    told = config(num_bits=bits, symmetric=False, actorder="group", group_size=8)
    parts = FORMAT.encode(weight, told)
    assert set(parts) >= {"weight_g_idx", "weight_zero_point"}
    again = FORMAT.decode(parts, told)
    assert torch.equal(again.dequantize(), weight.dequantize())
    naive = (codes.float() - points[:, groups]) * weight.scales[:, groups]
    assert torch.equal(weight.dequantize(), naive)


def test_words_of_three_bits_are_those_of_the_tool() -> None:
    """Words of `pack_to_int32` of compressed-tensors 0.19; older ones had gaps."""
    codes = (torch.arange(43) * 5 % 8 - 4).to(torch.int8)[None]
    told = config(num_bits=3, strategy="channel")
    parts = FORMAT.encode(IntegerGrid(codes, torch.ones(1, 1), None, 3), told)
    words = [[-1468477784, -827819826, 2026809464, -1468477784, 0]]
    assert parts["weight_packed"].tolist() == words
    assert torch.equal(FORMAT.decode(parts, told).codes, codes)
    wide = codes.repeat(1, 8)
    older = {**parts, "weight_packed": pack(wide, 3), "weight_shape": torch.tensor([1, 344])}
    assert torch.equal(FORMAT.decode(older, told).codes, wide)


def test_plain_integers_with_one_scale_and_zero_points() -> None:
    codes = torch.tensor([[1, 2], [3, -4]], dtype=torch.int8)
    parts = {"weight": codes, "weight_scale": torch.tensor([0.5])}
    told = config(num_bits=8, strategy="tensor")
    assert torch.equal(FORMAT.decode(parts, told).dequantize(), codes * 0.5)
    points = torch.tensor([[1], [-1]], dtype=torch.int8)
    shifted = FORMAT.decode({**parts, "weight_zero_point": points}, told)
    assert torch.equal(shifted.dequantize(), (codes - points) * 0.5)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"config_groups": {}}, "no config_groups with weights"),
        ({"format": "marlin-24", **config(type="float")}, "4-bit float weights"),
        (config(strategy="block"), "strategy 'block'"),
        ({**config(), "sparsity_config": {"format": "sparse-24-bitmask"}}, "sparse weights"),
        ({**config(), "transform_config": {"config_groups": {"u": {}}}}, "rotations at run time"),
    ],
)
def test_what_is_not_read_is_said(changes: dict[str, object], told: str) -> None:
    with pytest.raises(QuantizationError, match=f"{told}.*Expected integers of 2 to 8 bits"):
        find_format({"quant_method": "compressed-tensors", **changes})


def test_words_that_fit_no_width() -> None:
    words = {"weight_packed": torch.zeros(4, 3, dtype=torch.int32), "weight_scale": torch.ones(4)}
    with pytest.raises(QuantizationError, match="has 3 words for 32 inputs"):
        FORMAT.decode({**words, "weight_shape": torch.tensor([4, 32])}, config())

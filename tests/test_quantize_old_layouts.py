"""Quantized checkpoints as they were published years ago."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import HERE, expected
from quantized_cases import case, stored_tensors
from torch import Tensor

from danlu.commands.info import ModelInfo, describe
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import CheckpointError
from danlu.files import write_json
from danlu.loading import load_decoder, save_decoder
from danlu.loading.layout import published_layout
from danlu.models.decoder import Decoder
from danlu.quantize.formats import bitsandbytes
from danlu.quantize.rounding.blockwise import quantize_blockwise

STATE = ".weight.quant_state.bitsandbytes__nf4"
BAICHUAN_CONFIG = {  # transformers 4.29 named no method
    "bnb_4bit_compute_dtype": "float16",
    "bnb_4bit_quant_type": "nf4",
    "bnb_4bit_use_double_quant": True,
    "llm_int8_threshold": 6.0,
    "load_in_4bit": True,
    "load_in_8bit": False,
}


def as_lists(tensors: dict[str, Tensor], with_table: bool = True) -> dict[str, Any]:
    """The state dict that bitsandbytes 0.41 had of 4-bit layers, of the tensors it has now."""
    content: dict[str, Any] = dict(tensors)
    for name in [name for name in tensors if name.endswith(STATE)]:
        layer = name.removesuffix(STATE)
        state = json.loads(bytes(content.pop(name).tolist()))
        parts = {
            part: content.pop(f"{layer}.weight.{part}")
            for part in ("absmax", "quant_map", "nested_absmax", "nested_quant_map")
        }
        nested = [
            torch.tensor(state["nested_offset"]),
            [parts["nested_absmax"], parts["nested_quant_map"], 256, False, torch.half, None, None],
        ]
        kind = [state["quant_type"], *([parts["quant_map"]] if with_table else [])]
        shape, dtype = torch.Size(state["shape"]), getattr(torch, state["dtype"])
        content[f"{layer}.weight.data"] = content.pop(f"{layer}.weight")
        content[f"{layer}.weight.quant_state"] = [parts["absmax"], shape, dtype, 64, nested, *kind]
    return content


@pytest.mark.parametrize("with_table", [True, False])
def test_lists_of_bitsandbytes_hold_the_numbers_of_its_tensors(
    with_table: bool, tmp_path: Path
) -> None:
    folder = case("bnb-nf4-dq")
    torch.save(as_lists(stored_tensors(folder), with_table), tmp_path / "pytorch_model.bin")
    shutil.copy(folder / "config.json", tmp_path)
    decoder, wanted = load_decoder(tmp_path), expected(folder)
    linears = dict(decoder.linears())
    compared = [key for key in wanted if key.startswith("dequantized.")]
    assert compared
    for key in compared:
        name = key.removeprefix("dequantized.").removesuffix(".weight")
        assert torch.equal(linears[name].dense_weight(), wanted[key]), name
    save_decoder(decoder, tmp_path / "now")
    again = load_decoder(tmp_path / "now")
    assert torch.equal(again(wanted["input_ids"]), decoder(wanted["input_ids"]))


@pytest.mark.parametrize("family", ["baichuan2-7b", "baichuan2-13b"])
def test_baichuan2_4bits_opens_as_it_was_published(family: str, tmp_path: Path) -> None:
    folder = HERE / "golden-small" / family
    dense, content = stored_tensors(folder), {}
    rounded = QuantScheme(method="nf4")
    for name, tensor in dense.items():
        if name.endswith("_proj.weight") or name.endswith("W_pack.weight"):
            weight = quantize_blockwise(tensor.half(), rounded)
            parts = bitsandbytes.FORMAT.encode(weight, {})
            layer = name.removesuffix(".weight")
            content |= {f"{layer}.{part}": value for part, value in parts.items()}
        else:
            content[name] = tensor.half()
    torch.save(as_lists(content), tmp_path / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    write_json(tmp_path / "config.json", {**config, "quantization_config": BAICHUAN_CONFIG})
    decoder = load_decoder(tmp_path)
    ids = expected(folder)["input_ids"][:1]
    with torch.inference_mode():
        found = decoder(ids)
        assert torch.equal(found, _rounded_by_hand(folder, dense, rounded)(ids))
    assert not torch.allclose(found, load_decoder(folder)(ids), atol=1e-3)
    told = describe(tmp_path)
    assert isinstance(told, ModelInfo)
    assert dict(told.rows())["quantized"] == "bitsandbytes nf4, 4 bits, double quantization"
    assert not [problem for problem in told.problems if "token" not in problem]


def _rounded_by_hand(folder: Path, dense: dict[str, Tensor], scheme: QuantScheme) -> Decoder:
    """The decoder with dense weights put in that were rounded and dequantized alone."""
    decoder = load_decoder(folder)
    for name, entry in published_layout(decoder).entries.items():
        tensor = dense[name].half()
        if name.endswith("_proj.weight") or name.endswith("W_pack.weight"):
            tensor = quantize_blockwise(tensor, scheme).dequantize(torch.float32)
        for ours, part in entry.load(tensor.float()).items():
            decoder.get_parameter(ours).data.copy_(part)
    return decoder


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ([torch.zeros(2), torch.Size([2, 2])], "not enough values to unpack"),
        (["a", torch.Size([2, 2]), torch.half, 64, None, "nf4"], "absmax is no tensor"),
    ],
)
def test_other_lists_are_refused(value: list[Any], told: str, tmp_path: Path) -> None:
    content = {"model.x.weight.data": torch.zeros(2), "model.x.weight.quant_state": value}
    torch.save(content, tmp_path / "pytorch_model.bin")
    shutil.copy(HERE / "golden-small" / "baichuan2-7b" / "config.json", tmp_path)
    with pytest.raises(CheckpointError, match=rf"model\.x\.weight\.quant_state.*{told}"):
        load_decoder(tmp_path)

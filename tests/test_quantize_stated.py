"""Configs of quantized folders against each other and against the weights."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import tiny_checkpoint
from quantized_cases import case, stored_tensors
from safetensors.torch import save_file

from danlu.commands.info import ModelInfo, describe
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.files import write_json
from danlu.loading import load_decoder, save_decoder


def copied(name: str, folder: Path, **changes: Any) -> Path:
    """A case with some keys of its quantization_config changed; None removes a key."""
    source = case(name)
    folder.mkdir()
    shutil.copy(source / "model.safetensors", folder)
    config = json.loads((source / "config.json").read_text())
    stated = {**config["quantization_config"], **changes}
    config["quantization_config"] = {k: v for k, v in stated.items() if v is not None}
    write_json(folder / "config.json", config)
    return folder


@pytest.mark.parametrize(
    ("name", "changes", "told"),
    [
        ("gptq-w8g32", {"bits": 4}, r"says 4 bits.*all 14 layers tell 8; expected \"bits\": 8"),
        (
            "gptq-w4g32-v2",
            {"group_size": 128},
            r"groups of 128.*are of groups of 32; expected \"group_size\": 32",
        ),
        ("gptq-w3g32", {"group_size": -1}, r"groups of -1.*\"group_size\": 32"),
        (
            "gptq-w3g32",
            {"checkpoint_format": "gptq_v2", "format": "gptq_v2"},
            r"says the file format 'gptq_v2'.*as 'gptq' stores.*\"checkpoint_format\": \"gptq\"",
        ),
        (
            "gptq-w4g32-v2",
            {"checkpoint_format": "gptq", "format": "gptq"},
            r"as 'gptq_v2' stores them, one off.*\"checkpoint_format\": \"gptq_v2\"",
        ),
        (
            "gptq-w4g32-asym",
            {"checkpoint_format": "gptq_v2", "format": "gptq_v2"},
            r"as 'gptq' stores them, one off.*\"checkpoint_format\": \"gptq\"",
        ),
        ("awq-gemm-w4g32", {"group_size": 64}, r"groups of 64.*\"group_size\": 32"),
        (
            "bnb-fp4",
            {"load_in_4bit": False, "load_in_8bit": True},
            r"says 8 bits.*layers tell 4",
        ),
    ],
)
def test_a_config_that_its_weights_contradict_is_refused(
    name: str, changes: dict[str, Any], told: str, tmp_path: Path
) -> None:
    folder = copied(name, tmp_path / "model", **changes)
    expected = rf"(?s)contradicts its weights.*{told}.*Correct it in config\.json"
    with pytest.raises(QuantizationError, match=expected):
        load_decoder(folder)
    found = describe(folder)
    assert any("contradicts its weights" in problem for problem in found.problems)


def test_zero_points_of_the_second_version_under_the_first_are_seen(tmp_path: Path) -> None:
    """With and without a format in the config: the first version is meant where none is named."""
    folder = copied("gptq-w8g32", tmp_path / "model", checkpoint_format=None, format=None)
    load_decoder(folder)
    tensors = stored_tensors(folder)
    for name in tensors:
        if name.endswith(".qzeros"):
            tensors[name] += 0x01010101
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(QuantizationError, match=r"'gptq_v2' stores.*\"gptq_v2\""):
        load_decoder(folder)


@pytest.mark.parametrize(
    ("name", "beside", "told"),
    [
        (
            "quantize_config.json",
            {"bits": 8, "group_size": 32, "desc_act": True},
            ["bits is 3 in config.json and 8 in quantize_config.json", "desc_act is False"],
        ),
        ("quant_config.json", {"w_bit": 3}, ["quant_method is 'gptq' in config.json and 'awq'"]),
    ],
)
def test_configs_that_disagree_are_refused(
    name: str, beside: dict[str, Any], told: list[str], tmp_path: Path
) -> None:
    folder = copied("gptq-w3g32", tmp_path / "model")
    write_json(folder / name, beside)
    with pytest.raises(QuantizationError, match=rf"disagree.*(?s:.*)Delete {name}") as raised:
        load_decoder(folder)
    for text in told:
        assert text in str(raised.value)
    assert "group_size" not in str(raised.value)
    write_json(folder / name, {"bits": 3, "group_size": 32, "quant_method": "gptq", "damp": 1})
    load_decoder(folder)


@pytest.mark.parametrize(("bits", "in_config"), [(4, True), (8, False)])
def test_qwen_opens_as_autogptq_published_it(bits: int, in_config: bool, tmp_path: Path) -> None:
    """Qwen-7B-Chat-Int4 and -Int8: fused c_attn with a bias, quantize_config.json, no format."""
    source = tiny_checkpoint(tmp_path / "source", "qwen")
    scheme = QuantScheme(bits=bits, group_size=16, symmetric=True, head_bits=16)
    decoder = load_decoder(source, dtype=torch.float16, quantize=scheme)
    folder = tmp_path / "published"
    save_decoder(decoder, folder, quant_format="gptq")
    old = {"bits": bits, "group_size": 16, "damp_percent": 0.01, "desc_act": False, "sym": True}
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {**old, "quant_method": "gptq"}
    if not in_config:
        del config["quantization_config"]
    write_json(folder / "config.json", config)
    write_json(folder / "quantize_config.json", {**old, "model_file_base_name": "model"})
    found = describe(folder)
    assert isinstance(found, ModelInfo)
    assert not [problem for problem in found.problems if "token" not in problem]
    words = f"GPTQ, {bits} bits, groups of 16, symmetric (file format gptq)"
    beside = "" if in_config else ", as quantize_config.json says"
    assert dict(found.rows())["quantized"] == words + beside
    ids = torch.arange(12).reshape(2, 6)
    opened = load_decoder(folder, dtype=torch.float16)
    assert "transformer.h.0.attn.c_attn" in opened.published.quantized  # type: ignore[union-attr]
    with torch.inference_mode():
        assert torch.equal(opened.float()(ids), decoder.float()(ids))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("awq-gemm-w4g32", "AWQ, 4 bits, groups of 32, with zero points (layout gemm)"),
        ("bnb-fp4", "bitsandbytes fp4, 4 bits"),
        ("bnb-int8", "bitsandbytes LLM.int8(), threshold 6.0"),
        ("bnb-nf4-dq", "bitsandbytes nf4, 4 bits, double quantization"),
        ("ct-w4a16-asym-g32", "compressed-tensors, 4 bits, groups of 32, with zero points"),
        (
            "ct-w8a8-kv8",
            "compressed-tensors, 8 bits, whole rows, symmetric, inputs in 8 bits, a scale for "
            "each token; cache in 8 bits",
        ),
        ("gptq-w4g64-act", "GPTQ, 4 bits, groups of 64, symmetric, act-order (file format gptq)"),
    ],
)
def test_info_says_how_a_folder_is_quantized(name: str, words: str) -> None:
    found = describe(case(name))
    assert isinstance(found, ModelInfo)
    assert dict(found.rows())["quantized"] == words
    assert not [problem for problem in found.problems if "token" not in problem]

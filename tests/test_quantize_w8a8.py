"""W8A8 and LLM.int8() models: made while weights stream in, written, opened, trained on."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import sequences, tiny_checkpoint
from quantized_cases import case, stored_tensors, with_exact_inputs
from safetensors.torch import load_file, save_file

from danlu.config.quantize.scheme import PRESETS, QuantScheme
from danlu.errors import CheckpointError, QuantizationError
from danlu.loading import dequantize, load_decoder, save_decoder
from danlu.models.decoder import Decoder
from danlu.quantize.activations import DynamicPerToken, InputRounding, StaticPerTensor
from danlu.quantize.format import find_format
from danlu.quantize.formats.compressed_tensors import FORMAT
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.outliers import OutlierColumns

WANTED: dict[str, InputRounding] = {"w8a8": DynamicPerToken(), "llm_int8": OutlierColumns(6.0)}


def layers(decoder: Decoder) -> dict[str, QuantizedLinear]:
    return {name: lin for name, lin in decoder.linears() if isinstance(lin, QuantizedLinear)}


def put_inputs(decoder: Decoder, inputs: InputRounding, *names: str) -> None:
    """Let layers whose name ends so (default: all) round their inputs."""
    for name, layer in layers(decoder).items():
        if name.endswith(names or ""):
            other = QuantizedLinear(layer.quantized(), layer.bias, layer.like.dtype, inputs)
            decoder.replace_linear(name, other)


def config_of(folder: Path) -> dict[str, Any]:
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())["quantization_config"]
    return config


def logits(decoder: Decoder) -> torch.Tensor:
    with torch.inference_mode():
        found: torch.Tensor = decoder(sequences(decoder, 2, 10))
    return found


@pytest.mark.parametrize("family", ["qwen", "gpt2"])  # one input for q, k and v in one tensor
@pytest.mark.parametrize("name", WANTED)
def test_rounded_while_streaming_in_and_given_back(name: str, family: str, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "base", family)
    decoder = load_decoder(folder, quantize=name)
    assert layers(decoder)
    assert all(WANTED[name].same_as(layer.inputs) for layer in layers(decoder).values())
    assert not isinstance(decoder.lm_head, QuantizedLinear)
    assert not torch.equal(logits(decoder), logits(load_decoder(folder, quantize="int8")))

    save_decoder(decoder, tmp_path / "out")
    config = config_of(tmp_path / "out")
    if name == "w8a8":
        group = config["config_groups"]["group_0"]
        assert (config["format"], group["format"]) == ("int-quantized", "int-quantized")
        assert group["targets"] == ["Linear"]
        assert group["input_activations"]["strategy"] == "token"
    else:
        assert (config["load_in_8bit"], config["llm_int8_threshold"]) == (True, 6.0)
        assert "lm_head" in config["llm_int8_skip_modules"]
    again = load_decoder(tmp_path / "out")
    assert torch.equal(logits(again), logits(decoder))
    save_decoder(again, tmp_path / "twice")
    one, other = stored_tensors(tmp_path / "out"), stored_tensors(tmp_path / "twice")
    assert one.keys() == other.keys()
    assert all(torch.equal(other[key], tensor) for key, tensor in one.items())
    assert config_of(tmp_path / "twice") == config


def test_llm_int8_gives_the_codes_of_bitsandbytes(tmp_path: Path) -> None:
    decoder = load_decoder(case("base-llama"), quantize="llm_int8")
    save_decoder(decoder, tmp_path)
    mine, theirs = stored_tensors(tmp_path), stored_tensors(case("bnb-int8"))
    assert mine.keys() == theirs.keys()
    for key, tensor in theirs.items():
        assert torch.equal(mine[key], tensor), key
    told = {**config_of(tmp_path), "llm_int8_skip_modules": None}
    assert told == config_of(case("bnb-int8"))


def test_a_threshold_of_ones_own() -> None:
    scheme = QuantScheme(method="llm_int8", threshold=2.5)
    decoder = load_decoder(case("base-llama"), quantize=scheme)
    assert all(layer.inputs == OutlierColumns(2.5) for layer in layers(decoder).values())
    assert scheme.summary == "llm_int8, 8 bits, inputs from 2.5 on exact"


@pytest.mark.parametrize("symmetric", [True, False])
def test_static_scales_are_written_and_read(symmetric: bool, tmp_path: Path) -> None:
    folder = tiny_checkpoint(tmp_path / "base", "qwen")
    decoder = load_decoder(folder, quantize="w8a8")
    static = StaticPerTensor.of_range(-3.0, 4.0, symmetric)
    put_inputs(decoder, static)
    save_decoder(decoder, tmp_path / "out")
    group = config_of(tmp_path / "out")["config_groups"]["group_0"]
    told = group["input_activations"]
    assert (told["dynamic"], told["strategy"], told["symmetric"]) == (False, "tensor", symmetric)
    stored = stored_tensors(tmp_path / "out")["transformer.h.0.attn.c_attn.input_scale"]
    assert torch.equal(stored, static.scale)
    again = load_decoder(tmp_path / "out")
    assert all(static.same_as(layer.inputs) for layer in layers(again).values())
    assert torch.equal(logits(again), logits(decoder))
    save_decoder(again, tmp_path / "twice")
    assert config_of(tmp_path / "twice") == config_of(tmp_path / "out")

    weights = tmp_path / "out" / "model.safetensors"
    kept = {k: v for k, v in load_file(weights).items() if not k.endswith("c_attn.input_scale")}
    save_file(kept, weights)
    with pytest.raises(CheckpointError, match=r"attn\.c_attn lacks input_scale"):
        load_decoder(tmp_path / "out")


def test_layers_that_share_a_published_tensor_share_its_input(tmp_path: Path) -> None:
    decoder = load_decoder(tiny_checkpoint(tmp_path / "base", "qwen"), quantize="w8a8")
    put_inputs(decoder, StaticPerTensor.of_range(-1.0, 1.0), "q_proj")
    with pytest.raises(QuantizationError, match=r"c_attn\.weight holds .* each in its own way"):
        save_decoder(decoder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_some_layers_round_their_inputs_and_others_do_not(tmp_path: Path) -> None:
    decoder = load_decoder(case("base-llama"), quantize=PRESETS["int8"])
    put_inputs(decoder, DynamicPerToken(symmetric=False), "mlp.down_proj")
    put_inputs(decoder, StaticPerTensor.of_range(-9.0, 9.0), "self_attn.o_proj")
    save_decoder(decoder, tmp_path)
    config = config_of(tmp_path)
    assert len(config["config_groups"]) == 3
    again = load_decoder(tmp_path)
    for name, layer in layers(decoder).items():
        other = layers(again)[name].inputs
        assert other is None if layer.inputs is None else layer.inputs.same_as(other), name
    assert torch.equal(logits(again), logits(decoder))
    with pytest.raises(QuantizationError, match="awq holds weights alone, and 4 layers round"):
        save_decoder(decoder, tmp_path / "awq", quant_format="awq")


def test_roundings_that_no_format_holds_together(tmp_path: Path) -> None:
    decoder = load_decoder(case("base-llama"), quantize="llm_int8")
    put_inputs(decoder, DynamicPerToken(), "mlp.down_proj")
    with pytest.raises(QuantizationError, match=r"with one threshold(.|\n)*exact where one"):
        save_decoder(decoder, tmp_path / "out")


def told(**activations: object) -> dict[str, Any]:
    weights = {"num_bits": 8, "type": "int", "symmetric": True, "strategy": "channel"}
    group = {"weights": weights, "format": "int-quantized", "input_activations": activations}
    return {"quant_method": "compressed-tensors", "config_groups": {"group_0": group}}


@pytest.mark.parametrize(
    ("activations", "problem"),
    [
        ({"num_bits": 4, "dynamic": True, "strategy": "token"}, "4-bit int activations"),
        ({"num_bits": 8, "type": "float", "dynamic": True, "strategy": "token"}, "8-bit float act"),
        ({"num_bits": 8, "dynamic": True, "strategy": "group"}, "dynamic .* strategy 'group'"),
        ({"num_bits": 8, "dynamic": False, "strategy": "channel"}, "static .* strategy 'channel'"),
        ({"num_bits": 8, "dynamic": "local", "strategy": "tensor_group"}, "local .*'tensor_group'"),
    ],
)
def test_activations_that_are_not_read_are_named(
    activations: dict[str, object], problem: str
) -> None:
    with pytest.raises(QuantizationError, match=problem):
        find_format(told(**activations))


def test_the_most_precise_target_tells() -> None:
    config = told(num_bits=8, dynamic=True, strategy="token")
    weights = config["config_groups"]["group_0"]["weights"]
    exact = {"weights": weights, "targets": ["re:.*down_proj$"], "input_activations": None}
    config["config_groups"]["group_0"]["targets"] = ["Linear"]
    config["config_groups"]["group_1"] = exact
    assert FORMAT.inputs("model.layers.0.mlp.down_proj", {}, config) is None
    assert FORMAT.inputs("model.layers.0.mlp.up_proj", {}, config) == DynamicPerToken()
    config["config_groups"]["group_0"]["targets"] = ["model.layers.0.mlp.down_proj"]
    assert FORMAT.inputs("model.layers.0.mlp.down_proj", {}, config) == DynamicPerToken()
    with pytest.raises(QuantizationError, match="is meant by no target"):
        FORMAT.inputs("model.layers.0.mlp.up_proj", {}, config)


def test_dequantized_layers_do_not_round_their_inputs() -> None:
    decoder = load_decoder(case("bnb-int8"))
    names = list(layers(decoder))
    exact = logits(with_exact_inputs(load_decoder(case("bnb-int8"))))
    assert dequantize(decoder) == names
    assert torch.allclose(logits(decoder), exact, atol=1e-5)

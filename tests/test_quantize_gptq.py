"""GPTQ checkpoints: every layout that tools wrote, read and given back."""

from pathlib import Path

import pytest
import torch
from checkpoints import tiny_checkpoint, tiny_decoder
from quantized_cases import case, check_given_back, check_numbers, stored_tensors
from safetensors.torch import save_file

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import CheckpointError, QuantizationError
from danlu.files import write_json
from danlu.loading import load_decoder, save_decoder
from danlu.quantize.format import find_format
from danlu.quantize.formats.gptq import FORMAT
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.rounding.rtn import quantize_rtn

CASES = (
    "gptq-old-autogptq",
    "gptq-qwen1",
    "gptq-w3g32",
    "gptq-w4-perchannel",
    "gptq-w4g32-asym",
    "gptq-w4g32-sym",
    "gptq-w4g32-v2",
    "gptq-w4g64-act",
    "gptq-w8g32",
)
OLD = ("gptq-old-autogptq", "gptq-qwen1")  # with biases of zeros and rotary frequencies


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_those_of_the_tool(name: str) -> None:
    check_numbers(name)


@pytest.mark.parametrize("name", [name for name in CASES if name not in OLD])
def test_what_was_read_is_given_back(name: str, tmp_path: Path) -> None:
    config = check_given_back(name, tmp_path)
    assert config["quantization_config"]["quant_method"] == "gptq"  # type: ignore[index]


def test_an_old_folder_is_given_back_with_its_config_where_tools_look_now(tmp_path: Path) -> None:
    config = check_given_back("gptq-old-autogptq", tmp_path, (".bias", ".inv_freq"))
    assert config["quantization_config"]["quant_method"] == "gptq"  # type: ignore[index]
    assert (tmp_path / "model.safetensors").exists()


def test_both_versions_of_zero_points_mean_the_same() -> None:
    first, second = load_decoder(case("gptq-w4g32-asym")), load_decoder(case("gptq-w4g32-v2"))
    for (_, one), (_, other) in zip(first.linears(), second.linears(), strict=True):
        assert torch.equal(one.dense_weight(), other.dense_weight())


@pytest.mark.parametrize("layout", ["gptq", "gptq_v2"])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_any_weight_goes_to_and_fro(bits: int, layout: str) -> None:
    generator, half = torch.Generator().manual_seed(bits), 2 ** (bits - 1)

    def codes(*shape: int) -> torch.Tensor:
        return torch.randint(-half, half, shape, generator=generator).to(torch.int8)

    groups = torch.randint(5, (64,), generator=generator, dtype=torch.int32)
    weight = IntegerGrid(codes(96, 64), torch.rand(96, 5).half(), codes(96, 5), bits, groups)
    config = {"quant_method": "gptq", "bits": bits, "checkpoint_format": layout}
    parts = FORMAT.encode(weight, config)
    assert parts["qweight"].shape == (64 * bits // 32, 96)
    again = FORMAT.decode(parts, config)
    for name, tensor in weight.tensors().items():
        assert torch.equal(again.tensors()[name], tensor), name


def test_layers_may_have_bits_of_their_own() -> None:
    weight = quantize_rtn(torch.randn(64, 64), QuantScheme(bits=8, group_size=16))
    parts = FORMAT.encode(weight, {"quant_method": "gptq"})
    again = FORMAT.decode(parts, {"quant_method": "gptq", "bits": 4, "group_size": 128})
    assert again.bits == 8
    assert torch.equal(again.dequantize(), weight.dequantize())


def test_a_last_group_may_be_short() -> None:
    words = FORMAT.encode(
        IntegerGrid(torch.ones(32, 64, dtype=torch.int8), torch.rand(32, 2), None, 4), {}
    )
    del words["g_idx"]
    short = FORMAT.decode(words, {"bits": 4, "group_size": 48})
    assert short.groups is not None
    assert short.groups.bincount().tolist() == [48, 16]


@pytest.mark.parametrize("family", ["bloom", "gpt2", "qwen2", "chatglm2"])
def test_every_published_layout_is_read(family: str, tmp_path: Path) -> None:
    """Fused projections, weights that lie the other way round, biases, tied heads."""
    source = tiny_checkpoint(tmp_path / "source", family)
    decoder = load_decoder(source, quantize=QuantScheme(bits=4, group_size=16, head_bits=16))
    save_decoder(decoder, tmp_path / "ours")
    ours = load_decoder(tmp_path / "ours")
    assert ours.published is not None
    assert ours.published.quantization is not None
    read, config = find_format(ours.published.quantization), {"quant_method": "gptq", "bits": 4}
    tensors, parts_of = stored_tensors(tmp_path / "ours"), {}
    for name, part in read.parts(set(tensors)).items():
        parts_of.setdefault(part.module, {})[part.name] = tensors.pop(name)
    for module, parts in parts_of.items():
        weight = read.decode(parts, ours.published.quantization)
        tensors |= {f"{module}.{k}": v for k, v in FORMAT.encode(weight, config).items()}
    folder = tmp_path / "gptq"
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    write_json(folder / "config.json", {**decoder.published.config, "quantization_config": config})
    ids = torch.arange(12).reshape(2, 6)
    with torch.inference_mode():
        assert torch.equal(load_decoder(folder)(ids), decoder(ids))


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"checkpoint_format": "marlin"}, "the layout 'marlin'"),
        ({"is_marlin_format": True}, "the layout 'marlin'"),
        ({"bits": 5}, "5 bits"),
        ({"pack_dtype": "int16"}, "words of int16"),
    ],
)
def test_what_is_not_read_is_said(changes: dict[str, object], told: str) -> None:
    with pytest.raises(QuantizationError, match=f"not read: {told}.*quantize="):
        find_format({"quant_method": "gptq", "bits": 4, **changes})


def test_damaged_layers_are_listed_together(tmp_path: Path) -> None:
    source = case("gptq-w4g64-act")
    tensors, layer = stored_tensors(source), "model.layers.0.self_attn"
    del tensors[f"{layer}.q_proj.scales"]
    tensors[f"{layer}.k_proj.g_idx"] += 7
    tensors[f"{layer}.o_proj.qzeros"] = tensors[f"{layer}.o_proj.qzeros"][:, :-1].contiguous()
    tensors[f"{layer}.v_proj.bias"] = torch.ones(32)
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    with pytest.raises(CheckpointError) as raised:
        load_decoder(tmp_path)
    for told in ("q_proj lacks scales", "expected 128 numbers below 2", "fits none of 2, 3, 4, 8"):
        assert told in str(raised.value)
    assert "v_proj.bias [32] in model.safetensors belongs to no parameter" in str(raised.value)


def test_a_quantized_model_is_not_quantized_again() -> None:
    with pytest.raises(QuantizationError, match="quantized already, as 'gptq'"):
        load_decoder(case("gptq-w4g32-v2"), quantize="nf4")


def test_a_config_beside_plain_weights_is_left_alone(tmp_path: Path) -> None:
    save_decoder(tiny_decoder("llama"), tmp_path)
    write_json(tmp_path / "quantize_config.json", {"bits": 4, "group_size": 128})
    assert load_decoder(tmp_path).published.quantized == {}  # type: ignore[union-attr]

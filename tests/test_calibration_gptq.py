"""GPTQ through a whole model: better than rounding, written so that other tools open it."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from checkpoints import sequences, tiny_checkpoint

from danlu.calibration.walk import quantize_decoder, working_dtype
from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.run import Override, QuantizeRun, Scheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.eval.compare import Comparison, compare_decoders
from danlu.loading import load_decoder, load_tokenizer, save_decoder
from danlu.models.decoder import Decoder
from danlu.nn.packed import can_pack
from danlu.progress import Silent
from danlu.quantize.formats.gptq import FORMAT
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.rounding.weights import quantize_weight


def quantized(model: Path, work: Path, rows: Sequence[Sequence[int]], **run: object) -> Decoder:
    config = QuantizeRun(model=str(model), out=str(work / "out"), device="cpu", **run)
    return quantize_decoder(model, config, rows, work / "work", Silent()).decoder


def grids(decoder: Decoder) -> dict[str, IntegerGrid]:
    """The weight of each quantized layer."""
    layers = {name: lin for name, lin in decoder.linears() if isinstance(lin, QuantizedLinear)}
    weights = {name: layer.quantized() for name, layer in layers.items()}
    assert all(isinstance(weight, IntegerGrid) for weight in weights.values())
    return weights  # type: ignore[return-value]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoint(tmp_path_factory.mktemp("model"), "qwen2")


@pytest.fixture(scope="module")
def rows(model: Path) -> list[list[int]]:
    return sequences(load_decoder(model), rows=6, length=24).tolist()


@pytest.mark.parametrize(
    ("changes", "asked", "layout", "says"),
    [
        ({}, "gptq", "gptq", {"sym": True, "desc_act": False}),
        ({"static_groups": False}, "gptq", "gptq", {"sym": True, "desc_act": True}),
        ({"bits": 2, "group_size": -1}, "gptq_v2", "gptq_v2", {"bits": 2, "group_size": -1}),
        ({"bits": 8, "symmetric": False}, "gptq", "gptq_v2", {"sym": False, "bits": 8}),
    ],
)
def test_a_written_folder_holds_the_very_numbers(
    changes: dict[str, object],
    asked: str,
    layout: str,
    says: dict[str, object],
    model: Path,
    rows: list[list[int]],
    tmp_path: Path,
) -> None:
    scheme = GptqScheme.model_validate({"group_size": 16, **changes})
    decoder = quantized(model, tmp_path, rows, scheme=scheme)
    save_decoder(decoder, tmp_path / "out", quant_format=asked)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert json.loads((tmp_path / "out" / "quantize_config.json").read_text()) == config
    assert (config["checkpoint_format"], config["format"]) == (layout, layout)
    assert {key: config[key] for key in says} == says
    assert config["dynamic"] is None
    opened = grids(load_decoder(tmp_path / "out"))
    assert len(opened) == 14
    for name, weight in grids(decoder).items():
        parts = opened[name].tensors()
        assert parts.keys() == weight.tensors().keys()
        assert all(torch.equal(parts[part], weight.tensors()[part]) for part in parts), name


def test_what_is_different_about_a_layer_is_in_the_config(
    model: Path, rows: list[list[int]], tmp_path: Path
) -> None:
    other = Override(match="*.o_proj", scheme=GptqScheme(bits=8, group_size=-1))
    decoder = quantized(
        model,
        tmp_path,
        rows,
        scheme=GptqScheme(group_size=16),
        overrides=[other],
        skip=["model.layers.1.mlp.*"],
    )
    save_decoder(decoder, tmp_path / "out", quant_format="gptq")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    own = {"bits": 8, "group_size": -1, "desc_act": False, "sym": True}
    mlp = [rf"-:^model\.layers\.1\.mlp\.{name}_proj$" for name in ("gate", "up", "down")]
    assert config["dynamic"] == {
        **{rf"+:^model\.layers\.{i}\.self_attn\.o_proj$": own for i in range(2)},
        **{name: {} for name in mlp},
    }
    ids = torch.tensor(rows)
    with torch.inference_mode():
        assert torch.equal(load_decoder(tmp_path / "out")(ids), decoder(ids))


def test_blocks_compute_in_bfloat16_only_where_nothing_is_folded() -> None:
    gpu, bf16, fp32 = torch.device("cuda"), torch.bfloat16, torch.float32
    assert working_dtype([GptqScheme(), QuantScheme()], bf16, gpu) == bf16
    assert working_dtype([GptqScheme(), AwqScheme()], bf16, gpu) == fp32
    assert working_dtype([GptqScheme()], torch.float16, gpu) == fp32
    here = bf16 if can_pack(bf16) else fp32
    assert working_dtype([GptqScheme()], bf16, torch.device("cpu")) == here


def test_nothing_but_grids_is_written() -> None:
    weight = quantize_weight(torch.randn(32, 64), QuantScheme(method="nf4"), "o_proj")
    with pytest.raises(QuantizationError, match="o_proj is no grid of integers"):
        FORMAT.config({"o_proj": weight}, [], "gptq")


def test_a_trained_model_loses_less_than_by_rounding(shared: Path, tmp_path: Path) -> None:
    """int4 in groups of 32, symmetric as the widest read files are, against rounding with zeros."""
    stories = shared / "data" / "models" / "stories260K"
    text = shared / "data" / "train" / "pretrain" / "tinystories_sample.txt"
    tokenizer, dense = load_tokenizer(stories), load_decoder(stories)
    told = [each.strip() for each in text.read_text("utf-8").split("<|endoftext|>")]
    rows = [[*tokenizer.prompt_prefix(), *tokenizer.encode(each)] for each in told if each]

    def cost(scheme: Scheme, folder: Path) -> Comparison:
        down = scheme.model_copy(update={"group_size": 43})  # of 172 inputs
        overrides = [Override(match="*.down_proj", scheme=down)]
        decoder = quantized(stories, folder, rows[:3], scheme=scheme, overrides=overrides)
        return compare_decoders(dense, decoder, [rows[3:]])

    rounded = cost(QuantScheme(bits=4, group_size=32, head_bits=16), tmp_path / "rtn")
    solved = cost(GptqScheme(bits=4, group_size=32), tmp_path / "gptq")
    assert solved.kl_mean < 0.75 * rounded.kl_mean
    increases = [
        each.perplexity_candidate - each.perplexity_reference for each in (solved, rounded)
    ]
    assert increases[0] < 0.75 * increases[1]

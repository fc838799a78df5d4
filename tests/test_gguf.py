"""GGUF files, read back with the `gguf` package: names, shapes, keys and numbers."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from checkpoints import golden, tiny_checkpoint, tiny_decoder
from torch import Tensor

from danlu.commands.export import export
from danlu.errors import ConfigError, ExportError, MissingExtraError, OutputError
from danlu.export.gguf import FILE_TYPES, export_gguf
from danlu.export.gguf.architecture import architectures
from danlu.export.source import open_source
from danlu.export.target import ExportOptions, ExportReport
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.progress import Silent

gguf = pytest.importorskip("gguf")


class Read:
    """A GGUF file: its keys as values, its tensors as float32 arrays."""

    def __init__(self, path: Path) -> None:
        reader = gguf.GGUFReader(path)
        self.keys = {name: field.contents() for name, field in reader.fields.items()}
        self.types = {tensor.name: tensor.tensor_type.name for tensor in reader.tensors}
        self.tensors: dict[str, np.ndarray[Any, Any]] = {
            tensor.name: gguf.dequantize(tensor.data, tensor.tensor_type).reshape(
                tensor.shape[::-1].tolist()
            )
            for tensor in reader.tensors
        }


def write(decoder: Decoder, path: Path, dtype: str | None = "f32") -> ExportReport:
    return export_gguf(decoder, None, path, ExportOptions(dtype=dtype), Silent())


def random_decoder(family: str, **changes: Any) -> Decoder:
    decoder = decoder_from_config({**discover()[family].tiny(), **changes}, family)
    decoder.to_empty(device="cpu").tie_head()
    decoder.init_weights(torch.Generator().manual_seed(0))
    return decoder


def of(decoder: Decoder, name: str) -> np.ndarray[Any, Any]:
    parameter = decoder.get_parameter(name)
    return parameter.detach().float().numpy()


def paired(weight: np.ndarray[Any, Any], num_heads: int) -> np.ndarray[Any, Any]:
    """Row i of each head beside row i + head_dim / 2, written out one row at a time."""
    head_dim = weight.shape[0] // num_heads
    order = [
        head * head_dim + half * (head_dim // 2) + pair
        for head in range(num_heads)
        for pair in range(head_dim // 2)
        for half in range(2)
    ]
    return weight[order]


def qkv(decoder: Decoder, leaf: str = "weight") -> np.ndarray[Any, Any]:
    names = [f"model.layers.1.self_attn.{x}_proj.{leaf}" for x in "qkv"]
    return np.concatenate([of(decoder, name) for name in names])


def test_architectures_are_discovered() -> None:
    assert sorted(architectures()) == [
        "baichuan", "bloom", "chatglm", "glm4", "gpt2", "llama", "qwen", "qwen2", "qwen3",
    ]  # fmt: skip
    families = [family for found in architectures().values() for family in found.families]
    assert len(set(families)) == len(families)
    assert set(families) <= discover().keys()


SAME = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "blk.1.attn_norm.weight": "model.layers.1.input_layernorm.weight",
    "blk.1.ffn_norm.weight": "model.layers.1.post_attention_layernorm.weight",
    "blk.1.attn_output.weight": "model.layers.1.self_attn.o_proj.weight",
    "blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
}
GATED = {f"blk.1.ffn_{x}.weight": f"model.layers.1.mlp.{x}_proj.weight" for x in ("gate", "up")}
BIASED = {
    name.replace("weight", "bias"): ours.replace("weight", "bias")
    for name, ours in SAME.items()
    if "embd" not in name
}
UP_BIAS = {"blk.1.ffn_up.bias": "model.layers.1.mlp.up_proj.bias"}
PLAIN_UP = {"blk.1.ffn_up.weight": "model.layers.1.mlp.up_proj.weight", **UP_BIAS}

CASES: dict[str, tuple[str, dict[str, str]]] = {
    "llama": ("llama", SAME | GATED | {"output.weight": "lm_head.weight"}),
    "llama2": ("llama", SAME | GATED),
    "llama3": ("llama", SAME | GATED),
    "aquila": ("llama", SAME | GATED),
    "aquila2": ("llama", SAME | GATED),
    "baichuan-7b": ("llama", SAME | GATED),
    "mistral": ("llama", SAME | GATED),
    "qwen": ("qwen", SAME | GATED | {"output.weight": "lm_head.weight"}),
    "qwen2": ("qwen2", SAME | GATED),
    "qwen3": ("qwen3", SAME | GATED),
    "chatglm2-6b": ("chatglm", SAME | {"output.weight": "lm_head.weight"}),
    "glm4-hf": ("chatglm", SAME),
    "glm4-0414": ("glm4", SAME),
    "bloom": (
        "bloom",
        SAME | BIASED | PLAIN_UP | {"token_embd_norm.bias": "model.embed_norm.bias"},
    ),
    "gpt2": (
        "gpt2",
        SAME | BIASED | PLAIN_UP | {"position_embd.weight": "model.embed_positions.weight"},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_file_holds_every_parameter(name: str, tmp_path: Path) -> None:
    architecture, same = CASES[name]
    decoder = load_decoder(golden(name))
    assert write(decoder, tmp_path / "m.gguf").architecture == architecture
    read = Read(tmp_path / "m.gguf")
    for theirs, ours in same.items():
        np.testing.assert_array_equal(read.tensors[theirs], of(decoder, ours), err_msg=theirs)
    config, keys = decoder.config, read.keys
    assert keys["general.architecture"] == architecture
    assert keys[f"{architecture}.block_count"] == config.num_layers
    assert keys[f"{architecture}.embedding_length"] == config.hidden_size
    assert keys[f"{architecture}.attention.head_count"] == config.num_heads
    assert keys[f"{architecture}.attention.head_count_kv"] == config.num_kv_heads
    assert keys[f"{architecture}.vocab_size"] == config.vocab_size
    assert keys["tokenizer.ggml.model"] == "none"
    read.tensors.pop("rope_freqs.weight", None)  # computed, no parameter
    stored = sum(array.size for array in read.tensors.values())
    assert stored == sum(parameter.numel() for parameter in decoder.parameters())


@pytest.mark.parametrize("name", ["llama2", "baichuan-7b"])
def test_pairs_of_queries_and_keys_are_neighbours_in_llama(name: str, tmp_path: Path) -> None:
    decoder = load_decoder(golden(name))
    write(decoder, tmp_path / "m.gguf")
    read, config = Read(tmp_path / "m.gguf"), decoder.config
    for letter, heads in (("q", config.num_heads), ("k", config.num_kv_heads)):
        ours = of(decoder, f"model.layers.1.self_attn.{letter}_proj.weight")
        theirs = read.tensors[f"blk.1.attn_{letter}.weight"]
        np.testing.assert_array_equal(theirs, paired(ours, heads))
        assert not np.array_equal(theirs, ours)
    values = of(decoder, "model.layers.1.self_attn.v_proj.weight")
    np.testing.assert_array_equal(read.tensors["blk.1.attn_v.weight"], values)


@pytest.mark.parametrize("name", ["qwen", "chatglm2-6b", "bloom", "gpt2"])
def test_queries_keys_and_values_are_stacked(name: str, tmp_path: Path) -> None:
    decoder = load_decoder(golden(name))
    write(decoder, tmp_path / "m.gguf")
    read = Read(tmp_path / "m.gguf")
    for leaf in ("weight", "bias"):
        np.testing.assert_array_equal(read.tensors[f"blk.1.attn_qkv.{leaf}"], qkv(decoder, leaf))


@pytest.mark.parametrize("name", ["chatglm2-6b", "glm4-0414"])
def test_gate_and_up_are_one_matrix_in_glm(name: str, tmp_path: Path) -> None:
    decoder = load_decoder(golden(name))
    write(decoder, tmp_path / "m.gguf")
    gate_up = [of(decoder, f"model.layers.1.mlp.{x}_proj.weight") for x in ("gate", "up")]
    found = Read(tmp_path / "m.gguf").tensors["blk.1.ffn_up.weight"]
    np.testing.assert_array_equal(found, np.concatenate(gate_up))


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [
        ("llama", "llama.attention.layer_norm_rms_epsilon", 1e-6),
        ("llama3", "llama.rope.freq_base", 500000.0),
        ("llama3", "llama.rope.dimension_count", 12),
        ("qwen2", "qwen2.rope.freq_base", 1000000.0),
        ("qwen", "qwen.context_length", 11),
        ("qwen", "qwen.feed_forward_length", 64),
        ("mistral", "llama.context_length", 5),
        ("chatglm2-6b", "chatglm.rope.dimension_count", 4),
        ("bloom", "bloom.attention.layer_norm_epsilon", 1e-5),
        ("gpt2", "gpt2.context_length", 24),
        ("qwen3", "qwen3.attention.key_length", 8),
    ],
)
def test_keys(name: str, key: str, value: float, tmp_path: Path) -> None:
    write(open_source(golden(name)), tmp_path / "m.gguf")
    assert Read(tmp_path / "m.gguf").keys[key] == pytest.approx(value)


def test_llama3_scaling_is_a_tensor_of_factors(tmp_path: Path) -> None:
    decoder = load_decoder(golden("llama3"))
    write(decoder, tmp_path / "m.gguf")
    factors = Read(tmp_path / "m.gguf").tensors["rope_freqs.weight"]
    wavelengths = 2 * np.pi * 500000.0 ** (np.arange(0, 12, 2) / 12)
    np.testing.assert_allclose(factors[wavelengths < 64 / 4], 1.0, rtol=1e-5)
    np.testing.assert_allclose(factors[wavelengths > 64 / 1], 8.0, rtol=1e-5)
    assert (wavelengths < 16).any()
    assert (wavelengths > 64).any()


def test_yarn_and_linear_scaling_are_keys(tmp_path: Path) -> None:
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32}
    write(random_decoder("llama", rope_scaling=yarn), tmp_path / "yarn.gguf")
    keys = Read(tmp_path / "yarn.gguf").keys
    assert keys["llama.rope.scaling.type"] == "yarn"
    assert keys["llama.rope.scaling.factor"] == 4.0
    assert keys["llama.rope.scaling.original_context_length"] == 32
    assert keys["llama.rope.scaling.attn_factor"] == pytest.approx(1.0)
    linear = {"type": "linear", "factor": 2.0}
    write(random_decoder("llama", rope_scaling=linear), tmp_path / "linear.gguf")
    keys = Read(tmp_path / "linear.gguf").keys
    assert keys["llama.rope.scaling.type"] == "linear"
    assert keys["llama.rope.scaling.factor"] == 2.0


@pytest.mark.parametrize(
    ("family", "layers", "architecture"),
    [
        ("baichuan2_7b", 32, "baichuan"),
        ("baichuan_7b", 3, "llama"),
        ("baichuan_13b", 40, "baichuan"),
    ],
)
def test_baichuan_leaves_by_its_depth(
    family: str, layers: int, architecture: str, tmp_path: Path
) -> None:
    decoder = random_decoder(family, num_hidden_layers=layers)
    assert write(decoder, tmp_path / "m.gguf").architecture == architecture
    read = Read(tmp_path / "m.gguf")
    head = of(decoder, "lm_head.weight")
    if family == "baichuan2_7b":
        head = head / np.linalg.norm(head, axis=1, keepdims=True)
        assert read.keys["baichuan.tensor_data_layout"] == "Meta AI original pth"
    np.testing.assert_allclose(read.tensors["output.weight"], head, atol=1e-6)


def test_a_tied_head_is_left_out_where_the_graph_shares_it(tmp_path: Path) -> None:
    write(random_decoder("llama", tie_word_embeddings=True), tmp_path / "llama.gguf")
    assert "output.weight" not in Read(tmp_path / "llama.gguf").tensors
    write(random_decoder("qwen", tie_word_embeddings=True), tmp_path / "qwen.gguf")
    tensors = Read(tmp_path / "qwen.gguf").tensors
    np.testing.assert_array_equal(tensors["output.weight"], tensors["token_embd.weight"])


@pytest.mark.parametrize("dtype", FILE_TYPES)
def test_numbers_are_rounded_within_the_bounds_of_the_type(dtype: str, tmp_path: Path) -> None:
    decoder = random_decoder("llama", intermediate_size=128)
    report = write(decoder, tmp_path / "m.gguf", dtype)
    read, file_type = Read(tmp_path / "m.gguf"), FILE_TYPES[dtype]
    assert read.keys["general.file_type"] == file_type.number
    for name, ours in (SAME | GATED).items():
        wanted = of(decoder, ours)
        norm = name.endswith("_norm.weight")
        assert read.types[name] == ("F32" if norm else file_type.storage)
        bound = 0.0 if norm else file_type.error
        assert np.abs(read.tensors[name] - wanted).max() <= bound * np.abs(wanted).max()
    assert report.dtype == dtype
    assert not any("do not make whole blocks" in note for note in report.notes)


def test_rows_that_make_no_whole_blocks_become_f16(tmp_path: Path) -> None:
    report = write(random_decoder("llama", intermediate_size=112), tmp_path / "m.gguf", "q8_0")
    types = Read(tmp_path / "m.gguf").types
    assert types["blk.0.ffn_down.weight"] == "F16"
    assert types["blk.0.ffn_up.weight"] == "Q8_0"
    assert any("2 matrices are stored as f16: their rows of 112" in note for note in report.notes)


def test_without_a_type_the_source_decides(tmp_path: Path) -> None:
    save_decoder(random_decoder("llama"), tmp_path / "m", dtype=torch.bfloat16)
    report = write(open_source(tmp_path / "m"), tmp_path / "m.gguf", None)
    assert report.dtype == "bf16"
    assert Read(tmp_path / "m.gguf").types["output.weight"] == "BF16"


def test_quantized_layers_leave_as_the_numbers_they_stand_for(tmp_path: Path) -> None:
    decoder = load_decoder(tiny_checkpoint(tmp_path / "m"), quantize="int8")
    write(decoder, tmp_path / "m.gguf")
    found = Read(tmp_path / "m.gguf").tensors["blk.1.ffn_up.weight"]
    linear = dict(decoder.linears())["model.layers.1.mlp.up_proj"]
    np.testing.assert_allclose(found, linear.dense_weight().detach().numpy(), rtol=1e-6)


def test_only_one_tensor_is_made_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import weakref

    from danlu.export.gguf import exporting

    alive: list[weakref.ref[Tensor]] = []
    most = 0
    make: Callable[..., Tensor] = exporting._make

    def counted(*arguments: Any) -> Tensor:
        nonlocal most
        tensor = make(*arguments).clone()
        alive.append(weakref.ref(tensor))
        most = max(most, sum(1 for found in alive if found() is not None))
        return tensor

    monkeypatch.setattr(exporting, "_make", counted)
    write(load_decoder(golden("bloom")), tmp_path / "m.gguf", "q8_0")
    assert len(alive) > 20
    assert most <= 2


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("opt", "no graph for OPT"),
        ("chatglm-6b", "2-D rotary positions"),
        ("glm-10b", "block positions"),
        ("qwen3_moe", "not written yet"),
        ("deepseek_v3", "not written yet"),
        ("baichuan-13b", "ALiBi and 2 layers; the graph has ALiBi with 40 only"),
        ("baichuan2-13b", "ALiBi and 2 layers; the graph has ALiBi with 40 only"),
    ],
)
def test_what_no_graph_computes_is_refused(name: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=reason):
        write(open_source(golden(name)), tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_heads_that_do_not_make_the_hidden_size_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"4 heads of 32 dims are 4 x 32 = 128.* size, 64"):
        write(random_decoder("qwen2", head_dim=32), tmp_path / "m.gguf")


def test_a_parameter_without_a_place_is_refused(tmp_path: Path) -> None:
    decoder = random_decoder("qwen2")
    decoder.register_parameter("extra", torch.nn.Parameter(torch.ones(3)))
    with pytest.raises(ExportError, match=r"no place for 1 tensors of this model, such as extra"):
        write(decoder, tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("number", "dtype"), [(float("nan"), "f32"), (1e5, "f16")])
def test_numbers_that_a_type_cannot_hold_are_an_error(
    number: float, dtype: str, tmp_path: Path
) -> None:
    decoder = random_decoder("llama")
    with torch.no_grad():
        decoder.get_parameter("model.layers.1.mlp.up_proj.weight")[3, 5] = number
    with pytest.raises(ExportError, match=rf"blk\.1\.ffn_up\.weight holds .* {dtype} cannot hold"):
        write(decoder, tmp_path / "m.gguf", dtype)
    assert list(tmp_path.iterdir()) == []


def test_what_is_read_back_otherwise_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = gguf.quantize
    monkeypatch.setattr(gguf, "quantize", lambda data, kind: real(data, kind) * np.float32(1.5))
    with pytest.raises(ExportError, match=r"was read back with an error of 5\.0e-01; f32 allows"):
        write(random_decoder("llama"), tmp_path / "m.gguf")
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path) -> None:
    model, out = tiny_checkpoint(tmp_path / "m"), tmp_path / "m.gguf"
    report = export(model, out, "gguf", dtype="Q8_0")
    assert (report.target, report.family, report.architecture) == ("gguf", "llama", "llama")
    assert report.num_bytes == out.stat().st_size
    assert "takes token ids only" in report.tokenizer
    before = out.read_bytes()
    with pytest.raises(OutputError, match="Nothing was overwritten"):
        export(model, out, "gguf")
    assert out.read_bytes() == before
    with pytest.raises(ConfigError, match=r"cannot store 'q4_0'.*f32, f16, bf16, q8_0"):
        export(model, tmp_path / "other.gguf", "gguf", dtype="q4_0")


def test_without_the_package_the_extra_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "gguf", None)
    with pytest.raises(MissingExtraError, match=r"'gguf' is not installed.*danlu\[export\]"):
        write(tiny_decoder("llama"), tmp_path / "m.gguf")

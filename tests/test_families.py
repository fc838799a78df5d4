"""Which family a config.json is of: the written rules, look-alikes, both spellings, overrides."""

import json
from pathlib import Path
from typing import Any

import pytest
from checkpoints import copy_golden, expected, golden, padded_logits_close, spoil_config

from danlu.errors import CheckpointError, ConfigError, UnsupportedModelError
from danlu.loading import decoder_from_config, load_decoder
from danlu.models import detect_family, discover
from danlu.models.family import family_name
from danlu.nn.linear import NormalizedLinear
from danlu.nn.positions import Rope

FAMILY_OF = {
    "aquila": "aquila",
    "aquila2": "aquila",
    "baichuan-13b": "baichuan_13b",
    "baichuan-7b": "baichuan_7b",
    "baichuan2-13b": "baichuan2_13b",
    "baichuan2-7b": "baichuan2_7b",
    "bloom": "bloom",
    "chatglm-6b": "chatglm",
    "chatglm2-6b": "chatglm2",
    "deepseek_v3": "deepseek_v3",
    "glm-10b": "glm_10b",
    "glm4-0414": "glm4",
    "glm4-hf": "glm",
    "gpt2": "gpt2",
    "llama": "llama",
    "llama2": "llama",
    "llama3": "llama",
    "mistral": "mistral",
    "opt": "opt",
    "opt-350m": "opt",
    "qwen": "qwen",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "qwen3_moe": "qwen3_moe",
}


def config_of(name: str) -> dict[str, Any]:
    return dict(json.loads((golden(name) / "config.json").read_text()))


@pytest.mark.parametrize("name", sorted(FAMILY_OF))
def test_each_golden_is_of_its_family(name: str) -> None:
    assert detect_family(config_of(name)) == FAMILY_OF[name]
    assert family_name(name) == FAMILY_OF[name]


def test_each_tiny_config_is_of_its_family() -> None:
    found = {name: detect_family(family.tiny()) for name, family in discover().items()}
    assert found == {name: name for name in discover()}


def test_aliases_name_one_family_each() -> None:
    names = [*discover(), *(a for family in discover().values() for a in family.aliases)]
    assert len(names) == len(set(names))


@pytest.mark.parametrize(
    ("changes", "family"),
    [
        ({"vocab_size": 64000}, "baichuan_13b"),
        ({"vocab_size": 125696}, "baichuan2_13b"),
        ({"vocab_size": 64000, "tokenizer_class": "BaichuanTokenizer"}, "baichuan_13b"),
        ({"tokenizer_class": "BaichuanTokenizer"}, "baichuan2_13b"),
        ({"z_loss_weight": 0}, "baichuan2_13b"),
        ({}, "baichuan_13b"),
        ({"max_position_embeddings": 4096}, "baichuan2_7b"),
    ],
)
def test_baichuan_generations(changes: dict[str, Any], family: str) -> None:
    values = config_of("baichuan-13b") | changes
    assert detect_family(values) == family
    decoder_from_config(values)


def test_an_override_changes_the_head(tmp_path: Path) -> None:
    folder = copy_golden("baichuan2-13b", tmp_path / "model")
    spoil_config(folder, tokenizer_class="REMOVE")
    assert not isinstance(load_decoder(folder).lm_head, NormalizedLinear)
    decoder = load_decoder(folder, family="Baichuan2-13B")
    assert isinstance(decoder.lm_head, NormalizedLinear)
    padded_logits_close(decoder, expected(golden("baichuan2-13b")))


def test_look_alikes_are_never_taken_for_each_other() -> None:
    old, new = config_of("glm-10b"), config_of("glm4-hf")
    for spelling in ("GLMModel", "GLMForConditionalGeneration"):
        assert detect_family(old | {"architectures": [spelling]}) == "glm_10b"
    for spelling in ("GlmForCausalLM", "GlmModel"):
        assert detect_family(new | {"architectures": [spelling]}) == "glm"
    del old["architectures"]
    assert detect_family(old) == "glm_10b"
    with pytest.raises(CheckpointError, match="'block_position_encoding'"):
        decoder_from_config(old, "glm4_hf")
    with pytest.raises(CheckpointError, match="is missing"):
        decoder_from_config(config_of("chatglm2-6b"), "chatglm")


def test_the_first_spelling_of_qwen(tmp_path: Path) -> None:
    folder = copy_golden("qwen", tmp_path / "model")
    values = config_of("qwen")
    early = {
        "n_embd": values.pop("hidden_size"),
        "n_layer": values.pop("num_hidden_layers"),
        "n_head": values.pop("num_attention_heads"),
        "ffn_hidden_size": values.pop("intermediate_size"),
        "n_positions": values.pop("max_position_embeddings"),
        "padded_vocab_size": values["vocab_size"],
        "attn_pdrop": values.pop("attn_dropout_prob"),
        "embd_pdrop": values.pop("emb_dropout_prob"),
    }
    (folder / "config.json").write_text(json.dumps(values | early))
    padded_logits_close(load_decoder(folder), expected(golden("qwen")))


def test_the_original_layout_of_glm_4_9b() -> None:
    values = config_of("chatglm2-6b") | {"rope_ratio": 500.0, "kv_channels": 16}
    assert detect_family(values) == "chatglm2"
    assert decoder_from_config(values).config.position_scheme.theta == 5_000_000.0


def test_tokens_that_gptqmodel_writes_into_a_config_are_no_error() -> None:
    decoder_from_config(config_of("qwen2") | {"bos_token": "<s>", "eos_token": "</s>"})


@pytest.mark.parametrize("name", ["bloom", "gpt2", "opt"])
def test_rotary_settings_that_tools_write_everywhere_are_no_error(name: str) -> None:
    written = {"rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}
    decoder = decoder_from_config(config_of(name) | written)
    assert not isinstance(decoder.config.position_scheme, Rope)


def test_unknown_families_and_keys() -> None:
    with pytest.raises(UnsupportedModelError, match="model_type 'internlm'"):
        detect_family({"model_type": "internlm", "architectures": ["InternLMForCausalLM"]})
    with pytest.raises(ConfigError, match="no family 'qwen4'"):
        decoder_from_config(config_of("qwen"), "qwen4")
    for name in FAMILY_OF:
        with pytest.raises(CheckpointError, match="unknown key 'surprise'"):
            decoder_from_config(config_of(name) | {"surprise": 1})
    with pytest.raises(CheckpointError, match="'dynamic' is not supported"):
        decoder_from_config(config_of("llama3") | {"rope_scaling": {"rope_type": "dynamic"}})
    scaling = config_of("llama3")["rope_scaling"] | {"surprise": 2, "factor": "8"}
    with pytest.raises(CheckpointError) as caught:
        decoder_from_config(config_of("llama3") | {"rope_scaling": scaling})
    assert "'factor' is '8'" in str(caught.value)
    assert "unknown key 'surprise' in rope scaling" in str(caught.value)

"""`--to transformers`: stock transformers opens every exported family and computes the same."""

from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_close, expected, golden, tiny_decoder
from safetensors.torch import load_file
from torch import Tensor

from danlu.commands.export import export
from danlu.errors import ExportError
from danlu.export.dense import DenseState
from danlu.loading import decoder_from_config, load_decoder, save_decoder
from danlu.models import discover
from danlu.models.decoder import Decoder

transformers = pytest.importorskip("transformers")

BECOMES = {
    "aquila": "LlamaForCausalLM",
    "aquila2": "LlamaForCausalLM",
    "baichuan-7b": "LlamaForCausalLM",
    "baichuan2-7b": "LlamaForCausalLM",
    "bloom": "BloomForCausalLM",
    "chatglm2-6b": "GlmForCausalLM",
    "deepseek_v3": "DeepseekV3ForCausalLM",
    "glm4-0414": "Glm4ForCausalLM",
    "glm4-hf": "GlmForCausalLM",
    "gpt2": "GPT2LMHeadModel",
    "llama": "LlamaForCausalLM",
    "llama2": "LlamaForCausalLM",
    "llama3": "LlamaForCausalLM",
    "mistral": "MistralForCausalLM",
    "opt": "OPTForCausalLM",
    "opt-350m": "OPTForCausalLM",
    "qwen": "Qwen2ForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
    "qwen3_moe": "Qwen3MoeForCausalLM",
}
REFUSED = {
    "baichuan-13b": "ALiBi",
    "baichuan2-13b": "ALiBi",
    "chatglm-6b": "two coordinates",
    "glm-10b": "two coordinates",
}
LIVING = sorted(name for name, family in discover().items() if "transformers" in family.exports)


def stock(folder: Path) -> Any:
    """The folder as stock transformers opens it: no remote code, nothing missing or left over."""
    model, loading = transformers.AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(loading[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model.eval()


@torch.inference_mode()
def greedy(model: Any, prompt: Tensor, count: int) -> Tensor:
    """The most likely continuation through the other tool's own cache."""
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=count,
        do_sample=False,
        eos_token_id=-1,
        pad_token_id=0,
    )
    return out[:, prompt.shape[1] :]


def test_every_golden_family_is_exported_or_refused() -> None:
    found = {folder.name for folder in golden("qwen").parent.iterdir() if folder.is_dir()}
    assert found == BECOMES.keys() | REFUSED.keys()
    assert len(found) == 24


@pytest.mark.parametrize("name", BECOMES)
def test_stock_transformers_gives_the_golden_logits(name: str, tmp_path: Path) -> None:
    report = export(golden(name), tmp_path / "out")
    assert report.architecture == BECOMES[name]
    assert report.check is not None
    assert report.check.difference <= report.check.bound == 1e-4
    wanted, model = expected(golden(name)), stock(tmp_path / "out")
    assert type(model).__name__ == BECOMES[name]
    given = {"attention_mask": wanted["attention_mask"]}
    if "position_ids" in wanted and name not in ("opt", "opt-350m"):
        given["position_ids"] = wanted["position_ids"]
    with torch.inference_mode():
        logits = model(input_ids=wanted["input_ids"], **given).logits
    mask = wanted["compare_mask"].bool()
    assert_close(logits[mask], wanted["logits"][mask])
    answer = wanted["greedy_ids"]
    assert torch.equal(greedy(model, wanted["prompt_ids"], answer.shape[1]), answer)


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_exported_is_refused_with_the_reason(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=REFUSED[name]) as error:
        export(golden(name), tmp_path / "out")
    assert "Expected one of these families: aquila" in str(error.value)
    assert list(tmp_path.iterdir()) == []


def test_qwen_1_is_told_to_end_where_it_was_trained(tmp_path: Path) -> None:
    report = export(golden("qwen"), tmp_path / "out")
    assert report.notes[0].startswith("valid up to 11 tokens")
    assert stock(tmp_path / "out").config.max_position_embeddings == 11
    wanted = expected(golden("qwen"))
    with torch.inference_mode():
        beyond = stock(tmp_path / "out")(input_ids=wanted["long_input_ids"]).logits
    assert (beyond - wanted["long_logits"]).abs().max() > 0.1  # the note is true


@pytest.mark.parametrize("name", ["baichuan2-7b", "baichuan2-13b"])
def test_baichuan_2_becomes_baichuan_1(name: str, tmp_path: Path) -> None:
    first = {"baichuan2-7b": "baichuan_7b", "baichuan2-13b": "baichuan_13b"}[name]
    report = export(golden(name), tmp_path / "out", "baichuan")
    decoder = load_decoder(tmp_path / "out")
    assert decoder.published is not None
    assert decoder.published.family == first
    assert type(decoder.lm_head).__name__ == "Linear"
    assert report.architecture == decoder.published.config["architectures"][0]
    lengths = load_file(tmp_path / "out" / "model.safetensors")["lm_head.weight"].norm(dim=1)
    assert_close(lengths, torch.ones_like(lengths), 1e-6)
    wanted = expected(golden(name))
    with torch.inference_mode():
        logits = decoder(wanted["input_ids"], wanted["attention_mask"])
    mask = wanted["compare_mask"].bool()
    assert_close(logits[mask], wanted["logits"][mask])


@pytest.mark.parametrize("name", ["baichuan-7b", "baichuan-13b", "llama"])
def test_only_baichuan_2_becomes_baichuan(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="Expected one of these families: baichuan2_13b, baich"):
        export(golden(name), tmp_path / "out", "baichuan")


@pytest.mark.parametrize("family", LIVING)
@pytest.mark.parametrize(("seed", "dtype"), [(3, torch.float32), (4, torch.bfloat16)])
def test_other_weights_and_a_stored_dtype(
    family: str, seed: int, dtype: torch.dtype, tmp_path: Path
) -> None:
    save_decoder(tiny_decoder(family, seed), tmp_path / "source", dtype)
    report = export(tmp_path / "source", tmp_path / "out")
    assert report.dtype == str(dtype).removeprefix("torch.")
    decoder, model = load_decoder(tmp_path / "source"), stock(tmp_path / "out")
    ids = torch.randint(256, (2, 9), generator=torch.Generator().manual_seed(seed))
    assert report.check is not None
    normalised = family.startswith("baichuan2") and dtype == torch.bfloat16
    assert (
        report.check.rounding > 0
    ) == normalised  # the only weights that are not the stored ones
    with torch.inference_mode():
        found, wanted = model(input_ids=ids).logits, decoder(ids)
    assert_close(found, wanted, 1e-4 + 2 * report.check.rounding)
    assert stored_dtypes(tmp_path / "out") == {dtype}


SHAPES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("aquila", {"num_attention_heads": 3, "num_key_value_heads": 1, "hidden_size": 48}),
    ("aquila", {"rope_scaling": {"type": "linear", "factor": 2.0}, "rms_norm_eps": None}),
    ("baichuan_7b", {"num_attention_heads": 3, "hidden_size": 36, "vocab_size": 301}),
    ("baichuan2_7b", {"num_hidden_layers": 3, "rope_theta": 500.0, "tie_word_embeddings": False}),
    ("chatglm2", {"multi_query_group_num": 1, "rope_ratio": 500, "layernorm_epsilon": 1e-3}),
    ("chatglm2", {"add_qkv_bias": False, "kv_channels": 24, "tie_word_embeddings": True}),
    ("llama", {"tie_word_embeddings": True, "head_dim": 24, "mlp_bias": True}),
    ("qwen", {"kv_channels": 24, "rotary_emb_base": 1000000, "layer_norm_epsilon": 1e-4}),
    ("qwen", {"num_attention_heads": 2, "kv_channels": None, "seq_length": 16}),
)


@pytest.mark.parametrize(("family", "changes"), SHAPES)
def test_other_shapes(family: str, changes: dict[str, Any], tmp_path: Path) -> None:
    values = {**discover()[family].tiny(), **changes}
    given = {key: value for key, value in values.items() if value is not None}
    save_decoder(random_decoder(given, family), tmp_path / "source")
    export(tmp_path / "source", tmp_path / "out")
    ids = torch.randint(256, (2, 12), generator=torch.Generator().manual_seed(8))
    with torch.inference_mode():
        wanted = load_decoder(tmp_path / "source")(ids)
        assert_close(stock(tmp_path / "out")(input_ids=ids).logits, wanted)


def random_decoder(values: dict[str, Any], family: str) -> Decoder:
    decoder = decoder_from_config(values, family).to_empty(device="cpu")
    decoder.tie_head()
    generator = torch.Generator().manual_seed(21)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.normal_(0.1, 0.2, generator=generator)
    return decoder


def test_the_first_spelling_of_qwen_7b(tmp_path: Path) -> None:
    values = {
        "architectures": ["QWenLMHeadModel"],
        "model_type": "qwen",
        "n_embd": 32,
        "n_layer": 2,
        "n_head": 4,
        "ffn_hidden_size": 96,
        "n_positions": 64,
        "seq_length": 32,
        "padded_vocab_size": 300,
        "vocab_size": 298,
        "kv_channels": 8,
    }
    save_decoder(random_decoder(values, "qwen"), tmp_path / "source")
    report = export(tmp_path / "source", tmp_path / "out")
    assert report.architecture == "Qwen2ForCausalLM"
    assert stock(tmp_path / "out").config.vocab_size == 300


def stored_dtypes(folder: Path) -> set[torch.dtype]:
    files = folder.glob("*.safetensors")
    return {tensor.dtype for file in files for tensor in load_file(file).values()}


def test_dense_state_gives_what_each_layer_multiplies_by() -> None:
    decoder = tiny_decoder("llama")
    state = DenseState(decoder)
    assert set(state) == set(dict(decoder.named_parameters()))
    assert len(state) == len(set(state))
    assert state["lm_head.weight"].data_ptr() == decoder.lm_head.dense_weight().data_ptr()

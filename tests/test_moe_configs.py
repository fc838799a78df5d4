"""What Qwen3-MoE and DeepSeek-V3 build of a config.json, and what it may not say."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoints import assert_close, copy_golden, golden, spoil_config
from safetensors.torch import load_file, save_file

from danlu.errors import CheckpointError
from danlu.loading import decoder_from_config, load_decoder
from danlu.models import discover
from danlu.nn.attention import SelfAttention
from danlu.nn.mla import FullQueryLatentAttention, LowRankQueryLatentAttention
from danlu.nn.mlp import GatedMLP
from danlu.nn.moe import MixtureOfExperts


def config_of(family: str, **changes: Any) -> dict[str, Any]:
    values = discover()[family].tiny() | changes
    return {key: value for key, value in values.items() if value != "REMOVE"}


def kinds(family: str, **changes: Any) -> list[str]:
    decoder = decoder_from_config(config_of(family, **changes))
    return [type(block.mlp).__name__ for block in decoder.blocks()]


DENSE, SPARSE = GatedMLP.__name__, MixtureOfExperts.__name__


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [SPARSE] * 4),
        ({"decoder_sparse_step": 2}, [DENSE, SPARSE] * 2),
        ({"mlp_only_layers": [0, 3]}, [DENSE, SPARSE, SPARSE, DENSE]),
        ({"mlp_only_layers": [1], "decoder_sparse_step": 2}, [DENSE, DENSE, DENSE, SPARSE]),
    ],
)
def test_which_layers_of_qwen3_have_experts(changes: dict[str, Any], wanted: list[str]) -> None:
    assert kinds("qwen3_moe", num_hidden_layers=4, **changes) == wanted


@pytest.mark.parametrize(
    ("changes", "wanted"),
    [
        ({}, [DENSE, SPARSE, SPARSE, SPARSE]),
        ({"first_k_dense_replace": 0}, [SPARSE] * 4),
        ({"moe_layer_freq": 2}, [DENSE, DENSE, SPARSE, DENSE]),
        ({"first_k_dense_replace": 9}, [DENSE] * 4),
    ],
)
def test_which_layers_of_deepseek_have_experts(changes: dict[str, Any], wanted: list[str]) -> None:
    assert kinds("deepseek_v3", num_hidden_layers=4, **changes) == wanted


@pytest.mark.parametrize(("shared", "width"), [(2, 32), (0, None), (None, None)])
def test_shared_experts_are_one_mlp(shared: int | None, width: int | None) -> None:
    decoder = decoder_from_config(config_of("deepseek_v3", n_shared_experts=shared))
    mixture = decoder.blocks()[1].mlp
    assert isinstance(mixture, MixtureOfExperts)
    found = mixture.shared_experts
    assert (found.up_proj.out_features if isinstance(found, GatedMLP) else None) == width


@pytest.mark.parametrize("rank", [None, 10])
def test_queries_come_directly_or_through_a_small_vector(rank: int | None) -> None:
    decoder = decoder_from_config(config_of("deepseek_v3", q_lora_rank=rank))
    attention: SelfAttention = decoder.blocks()[0].self_attn
    names = {name.partition(".")[0] for name, _ in attention.named_parameters()}
    if rank is None:
        assert isinstance(attention, FullQueryLatentAttention)
        assert "q_proj" in names
    else:
        assert isinstance(attention, LowRankQueryLatentAttention)
        assert {"q_a_proj", "q_a_layernorm", "q_b_proj"} <= names
    assert decoder.kv_shape(0) == (4, 20, 14)


def test_attention_without_yarn_has_the_plain_scale() -> None:
    plain = decoder_from_config(config_of("deepseek_v3", rope_scaling=None))
    assert plain.config.attention_scale == pytest.approx(20**-0.5)
    stretched = decoder_from_config(config_of("deepseek_v3"))
    assert stretched.config.attention_scale == pytest.approx(20**-0.5 * 1.1386294**2)


# Bad input.


@pytest.mark.parametrize(
    ("family", "changes", "message"),
    [
        ("qwen3_moe", {"use_sliding_window": True}, "'use_sliding_window' is True"),
        ("qwen3_moe", {"num_experts_per_tok": 5}, "but there are 4 experts"),
        ("qwen3_moe", {"num_experts": "REMOVE"}, "'num_experts' or 'num_local_experts' is missing"),
        ("qwen3_moe", {"mlp_only_layers": [0, 7, "a"]}, r"names \[7, 'a'\]; expected layers"),
        ("qwen3_moe", {"norm_topk_prob": "yes"}, "'norm_topk_prob' is 'yes'; expected a bool"),
        ("qwen3_moe", {"num_expert": 3}, "unknown key 'num_expert'"),
        ("deepseek_v3", {"quantization_config": {"quant_method": "fp8"}}, "weight_scale_inv"),
        ("deepseek_v3", {"topk_method": "greedy"}, "expected 'noaux_tc'"),
        ("deepseek_v3", {"scoring_func": "softmax"}, "expected 'sigmoid'"),
        ("deepseek_v3", {"n_group": 3}, "4 experts in 3 groups"),
        ("deepseek_v3", {"n_group": 4}, "equal groups of two experts or more"),
        ("deepseek_v3", {"topk_group": 3}, "more than 2 groups of 2 have"),
        ("deepseek_v3", {"num_experts_per_tok": 3}, "3 experts .* of 1 groups"),
        ("deepseek_v3", {"num_key_value_heads": 2}, "'num_key_value_heads' is 2"),
        ("deepseek_v3", {"first_k_dense_replace": -1}, "is -1; expected 0 or more"),
        ("deepseek_v3", {"v_head_dim": 0}, "'v_head_dim' is 0; expected a positive number"),
        ("deepseek_v3", {"qk_head_dim": 7}, "'qk_head_dim' is 7"),
        ("deepseek_v3", {"kv_lora_rank": "REMOVE"}, "'kv_lora_rank' is missing"),
        ("deepseek_v3", {"rope_scaling": {"type": "yarn", "factor": "x"}}, "'factor' is 'x'"),
    ],
)
def test_what_a_config_may_not_say(family: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        decoder_from_config(config_of(family, **changes))


def test_a_missing_expert_and_one_too_many_are_reported_together(tmp_path: Path) -> None:
    folder = copy_golden("qwen3_moe", tmp_path / "spoiled")
    experts = json.loads((folder / "config.json").read_text())["num_experts"]
    spoil_config(folder, num_experts=experts + 1)
    with pytest.raises(CheckpointError) as caught:
        load_decoder(folder)
    assert f"experts.{experts}.gate_proj.weight" in str(caught.value)
    assert "mlp.gate.weight" in str(caught.value)


def with_guessing_layer(folder: Path) -> Path:
    """DeepSeek as published: a layer behind the last one, and corrections in float32."""
    copy_golden("deepseek_v3", folder)
    spoil_config(folder, num_nextn_predict_layers=1)
    layers = json.loads((folder / "config.json").read_text())["num_hidden_layers"]
    tensors = load_file(folder / "model.safetensors")
    half = {k: v if "correction" in k else v.bfloat16() for k, v in tensors.items()}
    name = "model.layers.1.mlp.gate.e_score_correction_bias"
    half[name] = torch.full_like(half[name], 7.0078125)  # no bfloat16 number
    extra = {f"model.layers.{layers}.eh_proj.weight": torch.zeros(2, 4)}
    save_file(half | extra, folder / "model.safetensors")
    return folder


def test_a_guessing_layer_is_ignored_only_where_config_json_tells_of_it(tmp_path: Path) -> None:
    folder = with_guessing_layer(tmp_path / "published")
    found, wanted = load_decoder(folder), load_decoder(golden("deepseek_v3"))
    assert_close(found.lm_head.dense_weight().data, wanted.lm_head.dense_weight().data, 1e-2)
    spoil_config(folder, num_nextn_predict_layers=0)
    with pytest.raises(CheckpointError, match=r"eh_proj\.weight .* belongs to no parameter"):
        load_decoder(folder)


@pytest.mark.parametrize("for_inference", [False, True])
def test_corrections_stay_in_float32(tmp_path: Path, for_inference: bool) -> None:
    folder = with_guessing_layer(tmp_path / "published")
    decoder = load_decoder(folder, torch.bfloat16, for_inference=for_inference)
    mixture = decoder.blocks()[1].mlp
    assert isinstance(mixture, MixtureOfExperts)
    correction = mixture.gate.e_score_correction_bias
    assert correction.dtype == torch.float32
    assert correction.tolist() == [7.0078125] * len(correction)
    assert decoder(torch.tensor([[1, 2, 3]])).dtype == torch.bfloat16

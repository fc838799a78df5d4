"""Qwen3-MoE: Qwen3 with a mixture of experts, chosen by softmax, in all or some of its layers.

Source: arXiv:2505.09388, sec. 2; config keys as published for Qwen3-30B-A3B and as transformers 5
writes them.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig, MlpFactory, qk_norm_attention
from danlu.models.family import Family, RawConfig
from danlu.models.llama_like import IGNORED as LLAMA_LIKE_IGNORED
from danlu.models.llama_like import read_llama_like, tiny_llama_like
from danlu.models.reexpressing import unchanged
from danlu.nn.moe import Router, SoftmaxTopK, gated_mixture
from danlu.weights.rules import Rule

IGNORED = {
    **LLAMA_LIKE_IGNORED,
    "sliding_window": "used only with use_sliding_window, which is refused",
    "output_router_logits": "an option of another tool's output",
    "router_aux_loss_coef": "a training option",
}


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says Qwen3-MoE."""
    return values.get("model_type") == "qwen3_moe"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    config = read_llama_like(raw, max_seq_len=32768)
    bias = raw.take("attention_bias", default=False, kind=bool)
    raw.expect("use_sliding_window", False)
    mixture = _read_mixture(raw)
    return replace(
        config,
        attention=qk_norm_attention,
        qkv_bias=bias,
        output_bias=bias,
        mlp_of_layer=dict.fromkeys(_sparse_layers(raw, config.num_layers), mixture),
    )


def _read_mixture(raw: RawConfig) -> MlpFactory:
    num_experts = raw.size("num_experts", "num_local_experts")
    top_k = raw.size("num_experts_per_tok")
    if top_k > num_experts:
        raw.problem(f"'num_experts_per_tok' is {top_k}, but there are {num_experts} experts")
    normalized = raw.take("norm_topk_prob", default=False, kind=bool)
    return partial(
        gated_mixture,
        router=partial(Router, rule=SoftmaxTopK(top_k, normalized)),
        num_experts=num_experts,
        expert_size=raw.size("moe_intermediate_size"),
    )


def _sparse_layers(raw: RawConfig, num_layers: int) -> list[int]:
    """Return the layers with experts: every `decoder_sparse_step`-th, less those listed."""
    step = raw.size("decoder_sparse_step", default=1)
    dense = raw.take("mlp_only_layers", default=[], kind=list)
    strange = [layer for layer in dense if type(layer) is not int or not 0 <= layer < num_layers]
    if strange:
        raw.problem(
            f"'mlp_only_layers' names {strange!r}; expected layers from 0 to {num_layers - 1}"
        )
    return [i for i in range(num_layers) if (i + 1) % step == 0 and i not in dense]


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model with experts in both layers."""
    return tiny_llama_like("Qwen3MoeForCausalLM", "qwen3_moe") | {
        "head_dim": 24,
        "moe_intermediate_size": 20,
        "norm_topk_prob": True,
        "num_experts": 4,
        "num_experts_per_tok": 2,
    }


FAMILY = Family(
    summary="Qwen3-MoE: Qwen3 with a mixture of experts",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    exports={"transformers": unchanged("qwen3_moe")},
)

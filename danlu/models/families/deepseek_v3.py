"""DeepSeek-V3 and R1: latent attention, and experts chosen by grouped, corrected sigmoid scores.

Source: arXiv:2412.19437, sec. 2.1; config keys as published for DeepSeek-V3 and as transformers 5
writes them.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig, MlpFactory
from danlu.models.family import Family, RawConfig
from danlu.models.llama_like import IGNORED as LLAMA_LIKE_IGNORED
from danlu.models.llama_like import read_llama_like, tiny_llama_like
from danlu.models.reexpressing import unchanged
from danlu.models.rope_config import read_rope
from danlu.nn.attention import AttentionLayer
from danlu.nn.linear import Linear
from danlu.nn.mla import (
    FullQueryLatentAttention,
    LatentAttention,
    LatentWidths,
    LowRank,
    LowRankQueryLatentAttention,
)
from danlu.nn.moe import CorrectedRouter, GroupedSigmoid, gated_mixture
from danlu.nn.norms import RMSNorm
from danlu.nn.positions import PositionScheme, Rope
from danlu.nn.rope_scaling import YarnScaling, yarn_magnitude
from danlu.weights.rules import Ignore, Rule

LATENT_NORM_EPS = 1e-6  # in the original, whatever `rms_norm_eps` says

IGNORED = {
    **LLAMA_LIKE_IGNORED,
    "aux_loss_alpha": "a training option",
    "seq_aux": "a training option",
    "router_aux_loss_coef": "a training option",
    "output_router_logits": "an option of another tool's output",
    "ep_size": "how the publisher spread the experts over devices",
    "num_nextn_predict_layers": "extra layers that guess further tokens are not part of the model",
    "num_mtp_layers": "extra layers that guess further tokens are not part of the model",
}


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says DeepSeek-V3."""
    return values.get("model_type") == "deepseek_v3"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    _refuse_float8(raw)
    widths = _read_widths(raw)
    config = read_llama_like(raw, partial(_read_positions, rotary=widths.rotary), max_seq_len=4096)
    raw.expect("head_dim", widths.rotary, widths.head)
    raw.expect("qk_head_dim", widths.head)
    raw.expect("num_key_value_heads", config.num_heads)
    rank = None if raw.take("q_lora_rank", default=None) is None else raw.size("q_lora_rank")
    mixture = _read_mixture(raw)
    return replace(
        config,
        num_kv_heads=config.num_heads,
        head_dim=widths.head,
        value_dim=widths.value,
        attention=partial(latent_attention, widths=widths, query_rank=rank),
        attention_scale=_read_attention_scale(raw, widths, config.position_scheme),
        qkv_bias=raw.take("attention_bias", default=False, kind=bool),
        mlp_of_layer=dict.fromkeys(_sparse_layers(raw, config.num_layers), mixture),
    )


def _refuse_float8(raw: RawConfig) -> None:
    quantization = raw.take("quantization_config", default={}, kind=dict)
    if quantization.get("quant_method") == "fp8":
        raw.problem(
            "'quantization_config' says 'fp8' (weights of 8 bits with weight_scale_inv), which is "
            "not read yet; expected bfloat16 weights: convert them with the script that DeepSeek "
            "publishes, or use a bfloat16 copy, and remove 'quantization_config'"
        )


def _read_widths(raw: RawConfig) -> LatentWidths:
    return LatentWidths(
        latent=raw.size("kv_lora_rank"),
        plain=raw.size("qk_nope_head_dim"),
        rotary=raw.size("qk_rope_head_dim"),
        value=raw.size("v_head_dim"),
    )


def _read_positions(raw: RawConfig, head_dim: int, *, rotary: int) -> Rope:
    interleaved = raw.take("rope_interleave", default=True, kind=bool)
    return read_rope(raw, rotary, interleaved=interleaved)


def _read_attention_scale(raw: RawConfig, widths: LatentWidths, scheme: PositionScheme) -> float:
    """Return the factor on the scores: YaRN's temperature is here, squared, not on the rotation."""
    plain: float = widths.head**-0.5
    scaling = scheme.scaling if isinstance(scheme, Rope) else None
    given = raw.take("rope_scaling", "rope_parameters", default={}, kind=dict)
    weight = given.get("mscale_all_dim")
    if not isinstance(scaling, YarnScaling) or type(weight) not in (int, float):
        return plain
    return plain * yarn_magnitude(scaling.factor, weight) ** 2


def _read_mixture(raw: RawConfig) -> MlpFactory:
    num_experts = raw.size("n_routed_experts", "num_local_experts")
    expert_size = raw.size("moe_intermediate_size")
    return partial(
        gated_mixture,
        router=partial(CorrectedRouter, rule=_read_rule(raw, num_experts)),
        num_experts=num_experts,
        expert_size=expert_size,
        shared_size=expert_size * _count(raw, "n_shared_experts", default=0),
    )


def _read_rule(raw: RawConfig, num_experts: int) -> GroupedSigmoid:
    raw.expect("scoring_func", "sigmoid")
    raw.expect("topk_method", "noaux_tc")
    rule = GroupedSigmoid(
        top_k=raw.size("num_experts_per_tok"),
        num_groups=raw.size("n_group"),
        top_groups=raw.size("topk_group"),
        normalized=raw.take("norm_topk_prob", kind=bool),
        scale=raw.take("routed_scaling_factor", kind=float),
    )
    size = num_experts // rule.num_groups
    if num_experts % rule.num_groups or size < 2:
        raw.problem(
            f"{num_experts} experts in {rule.num_groups} groups ('n_group'); expected equal groups "
            "of two experts or more"
        )
    elif rule.top_groups > rule.num_groups or rule.top_k > rule.top_groups * size:
        raw.problem(
            f"{rule.top_k} experts ('num_experts_per_tok') of {rule.top_groups} groups "
            f"('topk_group') are more than {rule.num_groups} groups of {size} have"
        )
    return rule


def _sparse_layers(raw: RawConfig, num_layers: int) -> list[int]:
    """Return the layers with experts: every `moe_layer_freq`-th behind the dense ones in front."""
    first = _count(raw, "first_k_dense_replace")
    step = raw.size("moe_layer_freq", default=1)
    return [i for i in range(num_layers) if i >= first and i % step == 0]


def _count(raw: RawConfig, name: str, **default: int) -> int:
    """Take a number that may be zero."""
    number: int = raw.take(name, kind=int, **default)
    if number < 0:
        raw.problem(f"{name!r} is {number}; expected 0 or more")
    return max(number, 0)


def latent_attention(
    config: DecoderConfig, layer: AttentionLayer, *, widths: LatentWidths, query_rank: int | None
) -> LatentAttention:
    """Return a layer's attention; `query_rank` is the width that queries go through, or None."""
    hidden, heads, bias = config.hidden_size, config.num_heads, config.qkv_bias
    key_value = LowRank(
        Linear(hidden, widths.latent + widths.rotary, bias=bias),
        RMSNorm(widths.latent, eps=LATENT_NORM_EPS),
        Linear(widths.latent, heads * (widths.plain + widths.value)),
    )
    o_proj = Linear(heads * widths.value, hidden, bias=bias)
    if query_rank is None:
        q_proj = Linear(hidden, heads * widths.head)
        return FullQueryLatentAttention(layer, widths, q_proj, key_value, o_proj)
    query = LowRank(
        Linear(hidden, query_rank, bias=bias),
        RMSNorm(query_rank, eps=LATENT_NORM_EPS),
        Linear(query_rank, heads * widths.head),
    )
    return LowRankQueryLatentAttention(layer, widths, query, key_value, o_proj)


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def extra_tensors(values: Mapping[str, Any]) -> tuple[Ignore, ...]:
    """Return the layers behind the last one, which guess further tokens."""
    first = int(values["num_hidden_layers"])
    count = int(values.get("num_nextn_predict_layers") or values.get("num_mtp_layers") or 0)
    reason = "guesses further tokens; no part of the model"
    return tuple(Ignore("", reason, f"model.layers.{first + i}.") for i in range(count))


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model: one dense, one with experts; all widths differ."""
    return tiny_llama_like("DeepseekV3ForCausalLM", "deepseek_v3") | {
        "num_key_value_heads": 4,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 20,
        "moe_intermediate_size": 16,
        "n_group": 2,
        "n_routed_experts": 4,
        "n_shared_experts": 1,
        "norm_topk_prob": True,
        "num_experts_per_tok": 2,
        "q_lora_rank": 28,
        "qk_nope_head_dim": 12,
        "qk_rope_head_dim": 8,
        "rope_scaling": {
            "type": "yarn",
            "factor": 4,
            "mscale": 1.0,
            "mscale_all_dim": 1.0,
            "original_max_position_embeddings": 32,
        },
        "routed_scaling_factor": 2.5,
        "scoring_func": "sigmoid",
        "topk_group": 1,
        "topk_method": "noaux_tc",
        "v_head_dim": 14,
    }


FAMILY = Family(
    summary="DeepSeek-V3 and R1",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    aliases=("deepseek_r1",),
    extra_tensors=extra_tensors,
    exports={"transformers": unchanged("deepseek_v3")},
)

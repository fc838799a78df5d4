"""Qwen3: Llama whose query and key heads are normalised before they are rotated.

Source: arXiv:2505.09388; config keys as published for Qwen3-0.6B to 32B.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from danlu.models.config import DecoderConfig, qk_norm_attention
from danlu.models.family import Family, RawConfig
from danlu.models.llama_like import IGNORED, read_llama_like, read_windows, tiny_llama_like
from danlu.models.reexpressing import unchanged
from danlu.weights.rules import Rule


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says Qwen3 (dense)."""
    return values.get("model_type") == "qwen3"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    config = read_llama_like(raw, max_seq_len=32768)
    bias = raw.take("attention_bias", default=False, kind=bool)
    return replace(
        config,
        attention=qk_norm_attention,
        qkv_bias=bias,
        output_bias=bias,
        windows=read_windows(raw, config.num_layers),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model whose heads are wider than its residual stream."""
    return tiny_llama_like("Qwen3ForCausalLM", "qwen3") | {"head_dim": 24}


FAMILY = Family(
    summary="Qwen3 (dense)",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    exports={"transformers": unchanged("qwen3")},
)

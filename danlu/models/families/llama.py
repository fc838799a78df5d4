"""Llama 1, 2 and 3: RMSNorm, half-split RoPE, gated SiLU, grouped keys and values.

Source: arXiv:2302.13971, arXiv:2307.09288; config keys as published for Llama-7B and Llama-2-70B.
Our own names are this family's, so it has no name rules.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig
from danlu.models.llama_like import IGNORED, read_llama_like, tiny_llama_like
from danlu.models.reexpressing import unchanged
from danlu.nn.mlp import GatedMLP
from danlu.weights.rules import Ignore, Rule


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says LlamaForCausalLM."""
    return values.get("model_type") == "llama" and values.get("architectures") in (
        ["LlamaForCausalLM"],
        None,
    )


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config; keys that Llama 1 lacks take their defaults."""
    mlp_bias = raw.take("mlp_bias", default=False, kind=bool)
    attention_bias = raw.take("attention_bias", default=False, kind=bool)
    return replace(
        read_llama_like(raw),
        mlp=partial(GatedMLP, activation="silu", bias=mlp_bias),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return tiny_llama_like("LlamaForCausalLM", "llama")


FAMILY = Family(
    summary="Llama 1, 2 and 3, and everything published in their layout",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    aliases=("llama1", "llama2", "llama3", "llama3_1", "llama3_2"),
    ignored_tensors=(Ignore("rotary_emb.inv_freq", "computed from the config"),),
    exports={"transformers": unchanged("llama")},
)

"""Llama 1, 2 and 3: RMSNorm, half-split RoPE, gated SiLU, grouped keys and values.

Source: arXiv:2302.13971, arXiv:2307.09288; config keys as published for Llama-7B and Llama-2-70B.
Our own names are this family's, so it has no name rules.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig
from danlu.models.reexpressing import unchanged
from danlu.models.rope_config import read_rope
from danlu.nn.mlp import GatedMLP
from danlu.nn.norms import RMSNorm
from danlu.weights.rules import Ignore, Rule

IGNORED = {
    "max_sequence_length": "an older name of max_position_embeddings",
    "attention_dropout": "dropout is a training option here",
}


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says LlamaForCausalLM."""
    return values.get("model_type") == "llama" and values.get("architectures") in (
        ["LlamaForCausalLM"],
        None,
    )


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config; keys that Llama 1 lacks take their defaults."""
    hidden_size = raw.size("hidden_size")
    num_heads = raw.size("num_attention_heads")
    head_dim = raw.size("head_dim", default=hidden_size // num_heads)
    mlp_bias = raw.take("mlp_bias", default=False, kind=bool)
    attention_bias = raw.take("attention_bias", default=False, kind=bool)
    raw.expect("hidden_act", "silu")
    return DecoderConfig(
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("intermediate_size"),
        num_layers=raw.size("num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=raw.size("num_key_value_heads", default=num_heads),
        head_dim=head_dim,
        max_seq_len=raw.size("max_position_embeddings", "max_sequence_length", default=2048),
        norm=partial(RMSNorm, eps=raw.take("rms_norm_eps", default=1e-6, kind=float)),
        mlp=partial(GatedMLP, activation="silu", bias=mlp_bias),
        position_scheme=read_rope(raw, head_dim),
        qkv_bias=attention_bias,
        output_bias=attention_bias,
        tie_word_embeddings=raw.take("tie_word_embeddings", default=False, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": 64,
        "intermediate_size": 112,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
        "rms_norm_eps": 1e-5,
        "vocab_size": 256,
    }


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

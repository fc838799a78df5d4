"""BLOOM: ALiBi, LayerNorm with bias, a norm after the embedding, tanh GELU, tied head.

Source: arXiv:2211.05100; config keys as published for bloom (n_embed) and bloomz (hidden_size).
The fused query_key_value holds q, k and v of head 0, then of head 1, ...
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig
from danlu.models.reexpressing import unchanged
from danlu.nn.mlp import PlainMLP
from danlu.nn.norms import LayerNorm
from danlu.nn.positions import Alibi
from danlu.weights.rules import PerHead, Rename, Rule, Split

IGNORED = {
    "rope_parameters": "some tools write it everywhere; this family has linear biases",
    "attention_dropout": "dropout is a training option here",
    "hidden_dropout": "dropout is a training option here",
    "attention_softmax_in_fp32": "softmax is always computed in float32",
    "masked_softmax_fusion": "a kernel choice of the original",
    "bias_dropout_fusion": "a kernel choice of the original",
    "skip_bias_add": "a kernel choice of the original",
    "skip_bias_add_qkv": "a kernel choice of the original",
    "slow_but_exact": "always exact here",
    "offset_alibi": "has no effect in the original",
    "seq_length": "ALiBi has no fixed length; read as the trained one",
}


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says BLOOM."""
    return values.get("model_type") == "bloom"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config; both published spellings are accepted."""
    hidden_size = raw.size("hidden_size", "n_embed")
    num_heads = raw.size("num_attention_heads", "n_head")
    norm = partial(LayerNorm, eps=raw.take("layer_norm_epsilon", default=1e-5, kind=float))
    raw.expect("apply_residual_connection_post_layernorm", False)
    return DecoderConfig(
        vocab_size=raw.size("vocab_size"),
        hidden_size=hidden_size,
        intermediate_size=raw.size("n_inner", default=4 * hidden_size),
        num_layers=raw.size("n_layer", "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=num_heads,
        head_dim=hidden_size // num_heads,
        max_seq_len=raw.size("seq_length", default=2048),
        norm=norm,
        mlp=partial(PlainMLP, activation="gelu_tanh"),
        position_scheme=Alibi(),
        embedding_norm=norm,
        qkv_bias=True,
        output_bias=True,
        tie_word_embeddings=raw.take("tie_word_embeddings", default=True, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names."""
    ours, theirs = "model.layers.{i}.", "transformer.h.{i}."
    qkv = tuple(f"{ours}self_attn.{name}_proj" for name in "qkv")
    per_head = PerHead(config.num_heads)
    return (
        Rename("transformer.word_embeddings", "model.embed_tokens"),
        Rename("transformer.word_embeddings_layernorm", "model.embed_norm"),
        Rename(f"{theirs}input_layernorm", f"{ours}input_layernorm"),
        Rename(f"{theirs}post_attention_layernorm", f"{ours}post_attention_layernorm"),
        Split(f"{theirs}self_attention.query_key_value", into=qkv, arrangement=per_head),
        Rename(f"{theirs}self_attention.dense", f"{ours}self_attn.o_proj"),
        Rename(f"{theirs}mlp.dense_h_to_4h", f"{ours}mlp.up_proj"),
        Rename(f"{theirs}mlp.dense_4h_to_h", f"{ours}mlp.down_proj"),
        Rename("transformer.ln_f", "model.norm"),
    )


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model whose head count is no power of two."""
    return {
        "architectures": ["BloomForCausalLM"],
        "model_type": "bloom",
        "hidden_size": 48,
        "n_head": 6,
        "n_layer": 2,
        "seq_length": 128,
        "vocab_size": 256,
    }


FAMILY = Family(
    summary="BLOOM and BLOOMZ",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    optional_prefix="transformer.",
    exports={"transformers": unchanged("bloom")},
)

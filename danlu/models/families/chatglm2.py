"""ChatGLM2-6B, ChatGLM3-6B and the first glm-4-9b: partial RoPE of neighbouring pairs.

Source: the configuration and modelling files published with ChatGLM2-6B. The fused query_key_value
holds all queries, then the keys, then the values of the groups; dense_h_to_4h holds gate, then up.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig, Reexpressed
from danlu.models.prefix_encoder import refuse_prefix_encoder
from danlu.models.reexpressing import gated_config
from danlu.nn.mlp import GatedMLP
from danlu.nn.norms import RMSNorm
from danlu.nn.positions import Rope
from danlu.weights.rules import Ignore, Rename, Rule, Split

IGNORED = {
    "attention_dropout": "dropout is a training option here",
    "hidden_dropout": "dropout is a training option here",
    "classifier_dropout": "dropout of a classifier",
    "attention_softmax_in_fp32": "softmax is always computed in float32",
    "apply_query_key_layer_scaling": "scales and unscales; no net effect",
    "bias_dropout_fusion": "a kernel choice of the original",
    "fp32_residual_connection": "no effect in the original's inference path",
    "original_rope": "a note of the publisher; the rotation is the same",
    "interleaved_qkv": "has no effect in the original",
}


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json is of the second generation (the first has other keys)."""
    return values.get("model_type") == "chatglm" and "padded_vocab_size" in values


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    num_heads = raw.size("num_attention_heads")
    head_dim = raw.size("kv_channels")
    raw.expect("multi_query_attention", True)
    raw.expect("add_bias_linear", False)
    raw.expect("apply_residual_connection_post_layernorm", False)
    raw.expect("rmsnorm", True)
    raw.expect("post_layer_norm", True)
    refuse_prefix_encoder(raw)
    raw.expect("quantization_bit", 0)
    return DecoderConfig(
        vocab_size=raw.size("padded_vocab_size"),
        hidden_size=raw.size("hidden_size"),
        intermediate_size=raw.size("ffn_hidden_size"),
        num_layers=raw.size("num_layers"),
        num_heads=num_heads,
        num_kv_heads=raw.size("multi_query_group_num"),
        head_dim=head_dim,
        max_seq_len=raw.size("seq_length"),
        norm=partial(RMSNorm, eps=raw.take("layernorm_epsilon", default=1e-5, kind=float)),
        mlp=partial(GatedMLP, activation="silu"),
        position_scheme=Rope(
            rotary_dim=head_dim // 2,
            theta=10000.0 * raw.take("rope_ratio", default=1.0, kind=float),
            interleaved=True,
        ),
        counts_prefix=False,
        qkv_bias=raw.take("add_qkv_bias", default=True, kind=bool),
        tie_word_embeddings=raw.take("tie_word_embeddings", default=False, kind=bool),
    )


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names."""
    ours, theirs = "model.layers.{i}.", "transformer.encoder.layers.{i}."
    qkv = tuple(f"{ours}self_attn.{name}_proj" for name in "qkv")
    gate_up = (f"{ours}mlp.gate_proj", f"{ours}mlp.up_proj")
    return (
        Rename("transformer.embedding.word_embeddings", "model.embed_tokens"),
        Rename(f"{theirs}input_layernorm", f"{ours}input_layernorm"),
        Rename(f"{theirs}post_attention_layernorm", f"{ours}post_attention_layernorm"),
        Split(f"{theirs}self_attention.query_key_value", into=qkv),
        Rename(f"{theirs}self_attention.dense", f"{ours}self_attn.o_proj"),
        Split(f"{theirs}mlp.dense_h_to_4h", into=gate_up),
        Rename(f"{theirs}mlp.dense_4h_to_h", f"{ours}mlp.down_proj"),
        Rename("transformer.encoder.final_layernorm", "model.norm"),
        Rename("transformer.output_layer", "lm_head"),
    )


def as_glm(values: Mapping[str, Any], config: DecoderConfig) -> Reexpressed:
    """Return the model as transformers' Glm, which kept its blocks and renamed them."""
    return Reexpressed(
        "glm",
        {
            "architectures": ["GlmForCausalLM"],
            "model_type": "glm",
            **gated_config(config, values.get("layernorm_epsilon", 1e-5)),
            "head_dim": config.head_dim,
            "rope_theta": 10000.0 * values.get("rope_ratio", 1.0),
            "partial_rotary_factor": 0.5,
            "attention_bias": config.qkv_bias,
        },
    )


def chat_format(values: Mapping[str, Any]) -> str:
    """Return ChatGLM2's format, or that of GLM-4 where the vocabulary is the larger one of 2024.

    ChatGLM3 has the config.json of ChatGLM2; its tokenizer carries a template of its own.
    """
    return "glm4-chat" if values.get("padded_vocab_size", 0) > 100_000 else "chatglm2-6b"


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "hidden_size": 64,
        "ffn_hidden_size": 112,
        "num_layers": 2,
        "num_attention_heads": 4,
        "multi_query_attention": True,
        "multi_query_group_num": 2,
        "kv_channels": 16,
        "add_qkv_bias": True,
        "padded_vocab_size": 256,
        "seq_length": 128,
    }


FAMILY = Family(
    summary="ChatGLM2-6B, ChatGLM3-6B and glm-4-9b in its first layout",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    ignored_tensors=(Ignore("rotary_pos_emb.inv_freq", "computed from the config"),),
    aliases=("chatglm2_6b", "chatglm3", "chatglm3_6b", "glm_4_9b", "glm4_9b"),
    chat_format=chat_format,
    exports={"transformers": as_glm},
)

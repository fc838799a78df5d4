"""What family files share when they say a checkpoint as another architecture."""

from collections.abc import Mapping
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Reexpress, Reexpressed


def unchanged(family: str) -> Reexpress:
    """Return the export of a family that other tools open as it is."""

    def same(values: Mapping[str, Any], config: DecoderConfig) -> Reexpressed:
        return Reexpressed(family, values)

    return same


def gated_config(config: DecoderConfig, rms_norm_eps: float, rope_theta: float) -> dict[str, Any]:
    """Return the keys that Llama, Qwen2 and Glm spell alike: RMSNorm, RoPE, gated SiLU.

    Args:
        config: the decoder's sizes.
        rms_norm_eps: of its norms.
        rope_theta: base of its rotation.
    """
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "max_position_embeddings": config.max_seq_len,
        "hidden_act": "silu",
        "rms_norm_eps": rms_norm_eps,
        "rope_theta": rope_theta,
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def as_llama(
    config: DecoderConfig, rms_norm_eps: float, rope_theta: float = 10000.0
) -> Reexpressed:
    """Return a decoder with Llama's blocks, plain RoPE and no biases as a Llama checkpoint."""
    return Reexpressed(
        "llama",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **gated_config(config, rms_norm_eps, rope_theta),
            "head_dim": config.head_dim,
            "attention_bias": False,
            "mlp_bias": False,
        },
    )

"""What family files share when they say a checkpoint as another architecture."""

from collections.abc import Mapping
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Reexpress, Reexpressed

ROPE_KEYS = ("rope_theta", "rope_scaling", "rope_parameters")


def unchanged(family: str) -> Reexpress:
    """Return the export of a family that other tools open as it is."""

    def same(values: Mapping[str, Any], config: DecoderConfig) -> Reexpressed:
        return Reexpressed(family, values)

    return same


def gated_config(config: DecoderConfig, rms_norm_eps: float) -> dict[str, Any]:
    """Return the keys that Llama, Qwen2 and Glm spell alike: RMSNorm, gated SiLU, sizes."""
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
        "attention_dropout": 0.0,
        "initializer_range": 0.02,
        "use_cache": True,
        "tie_word_embeddings": config.tie_word_embeddings,
    }


def as_llama(
    values: Mapping[str, Any], config: DecoderConfig, rms_norm_eps: float = 1e-6
) -> Reexpressed:
    """Return a decoder of Llama's blocks as a Llama checkpoint.

    Args:
        values: a config.json that spells rotation and norms as Llama does.
        config: its sizes.
        rms_norm_eps: where `values` does not tell.
    """
    rotation = {key: values[key] for key in ROPE_KEYS if values.get(key) is not None}
    return Reexpressed(
        "llama",
        {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            **gated_config(config, values.get("rms_norm_eps", rms_norm_eps)),
            "head_dim": config.head_dim,
            "rope_theta": 10000.0,
            **rotation,
            "attention_bias": False,
            "mlp_bias": False,
        },
    )

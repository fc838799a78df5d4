"""What GLM-4 and GLM-4-0414 share: partial neighbouring-pair RoPE, fused gate_up_proj.

Source: the GlmConfig and Glm4Config of transformers 5; arXiv:2406.12793.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import RawConfig
from danlu.models.llama_like import read_llama_like, tiny_llama_like
from danlu.models.rope_config import read_rope
from danlu.weights.rules import Rule, Split


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config; only queries, keys and values have biases."""
    rope = partial(read_rope, interleaved=True, partial=0.5)
    config = read_llama_like(raw, rope, max_seq_len=131072, rms_norm_eps=1.5625e-07)
    return replace(config, qkv_bias=raw.take("attention_bias", default=False, kind=bool))


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return the published names: gate and up are stacked in one matrix."""
    mlp = "model.layers.{i}.mlp."
    return (Split(f"{mlp}gate_up_proj", into=(f"{mlp}gate_proj", f"{mlp}up_proj")),)


def tiny(architecture: str, model_type: str) -> Mapping[str, Any]:
    """Return a config.json of a two-layer model."""
    return tiny_llama_like(architecture, model_type) | {
        "attention_bias": True,
        "head_dim": 16,
        "partial_rotary_factor": 0.5,
    }

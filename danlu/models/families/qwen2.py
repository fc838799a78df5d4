"""Qwen1.5, Qwen2 and Qwen2.5: Llama with biases on queries, keys and values.

Source: arXiv:2407.10671; config keys as published for Qwen2 and Qwen2.5.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig
from danlu.models.llama_like import IGNORED, read_llama_like, read_windows, tiny_llama_like
from danlu.models.reexpressing import unchanged
from danlu.weights.rules import Rule


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says Qwen2."""
    return values.get("model_type") == "qwen2"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    raw.expect("use_mrope", False)
    config = read_llama_like(raw, max_seq_len=32768)
    return replace(config, qkv_bias=True, windows=read_windows(raw, config.num_layers))


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model whose second layer has a sliding window."""
    return tiny_llama_like("Qwen2ForCausalLM", "qwen2") | {
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    }


FAMILY = Family(
    summary="Qwen1.5, Qwen2 and Qwen2.5",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    aliases=("qwen1_5", "qwen2_5"),
    exports={"transformers": unchanged("qwen2")},
)

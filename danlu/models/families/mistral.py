"""Mistral and Mistral-Nemo: Llama with a sliding window on every layer (or none).

Source: arXiv:2310.06825; config keys as published for Mistral-7B-v0.1 and Mistral-Nemo.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig
from danlu.models.llama_like import IGNORED, read_llama_like, tiny_llama_like
from danlu.models.reexpressing import unchanged
from danlu.weights.rules import Rule


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says Mistral."""
    return values.get("model_type") == "mistral"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config; a null window is full attention."""
    config = read_llama_like(raw, max_seq_len=32768)
    window = raw.take("sliding_window", default=None, kind=int)
    return replace(config, windows=(window,) * config.num_layers if window else ())


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model with a short window."""
    return tiny_llama_like("MistralForCausalLM", "mistral") | {"sliding_window": 3}


FAMILY = Family(
    summary="Mistral and Mistral-Nemo",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    exports={"transformers": unchanged("mistral")},
)

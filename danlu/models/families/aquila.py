"""Aquila 1 and 2: Llama's decoder under its own name.

Source: the configuration and modelling files published with AquilaChat-7B and Aquila2. The original
also clamps scaled scores to [-1024, 1024], which ordinary magnitudes never reach.
"""

from collections.abc import Mapping
from typing import Any

from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig, Reexpressed
from danlu.models.llama_like import IGNORED, read_llama_like, tiny_llama_like
from danlu.models.reexpressing import as_llama
from danlu.weights.rules import Ignore, Rule


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says Aquila (7B: AquilaModel, Aquila2: AquilaForCausalLM)."""
    return values.get("model_type") == "aquila"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config; only the 34B and 70B name their key/value heads."""
    return read_llama_like(raw, rms_norm_eps=1e-5)


def rules(config: DecoderConfig) -> tuple[Rule, ...]:
    """Return no rules: published names are ours."""
    return ()


def chat_format(values: Mapping[str, Any]) -> str:
    """Return the format of the chat model of this shape, as the publisher's predict code chooses.

    AquilaChat-7B: aquila-chat; AquilaChat2-7B: aquila-v1; the 16K variants: aquila; the 34B:
    aquila-legacy; the 70B: aquila-v2.
    """
    if values.get("architectures") == ["AquilaModel"]:
        return "aquila-chat"
    if values.get("max_position_embeddings", 0) >= 16384:
        return "aquila"
    return {6144: "aquila-legacy", 8192: "aquila-v2"}.get(values.get("hidden_size", 0), "aquila-v1")


def exported(values: Mapping[str, Any], config: DecoderConfig) -> Reexpressed:
    """Return the model as Llama, which it is."""
    return as_llama(values, config, rms_norm_eps=1e-5)


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return tiny_llama_like("AquilaForCausalLM", "aquila")


FAMILY = Family(
    summary="Aquila, AquilaChat and Aquila2",
    matches=matches,
    read_config=read_config,
    rules=rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    aliases=("aquila1", "aquila2", "aquilachat", "aquilachat2"),
    chat_format=chat_format,
    ignored_tensors=(Ignore("rotary_emb.inv_freq", "computed from the config"),),
    exports={"transformers": exported},
)

"""Baichuan2-7B: Baichuan-7B with a head of normalised rows."""

from dataclasses import replace
from typing import Any

from danlu.models import baichuan
from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig, always
from danlu.models.reexpressing import as_llama
from danlu.nn.linear import NormalizedLinear


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    return replace(baichuan.read_rotary(raw), head=NormalizedLinear)


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return baichuan.tiny("BaichuanForCausalLM", tokenizer_class="BaichuanTokenizer")


FAMILY = Family(
    summary="Baichuan2-7B",
    matches=baichuan.Variant(2, rotary=True).matches,
    read_config=read_config,
    rules=baichuan.rules,
    tiny=tiny,
    ignored_keys=baichuan.IGNORED,
    ignored_tensors=baichuan.IGNORED_TENSORS,
    aliases=("baichuan2",),
    chat_format=always("baichuan2-chat"),
    exports={"transformers": as_llama, "baichuan": baichuan.as_first_generation},
)

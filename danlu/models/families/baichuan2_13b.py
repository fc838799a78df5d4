"""Baichuan2-13B: Baichuan-13B with a head of normalised rows."""

from dataclasses import replace
from typing import Any

from danlu.models import baichuan
from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig, always
from danlu.nn.linear import NormalizedLinear


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    return replace(baichuan.read_alibi(raw), head=NormalizedLinear)


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return baichuan.tiny(
        "BaichuanForCausalLM",
        max_position_embeddings=None,
        model_max_length=128,
        tokenizer_class="BaichuanTokenizer",
    )


FAMILY = Family(
    summary="Baichuan2-13B",
    matches=baichuan.Variant(2, rotary=False).matches,
    read_config=read_config,
    rules=baichuan.rules,
    tiny=tiny,
    ignored_keys=baichuan.IGNORED,
    ignored_tensors=baichuan.IGNORED_TENSORS,
    chat_format=always("baichuan2-chat"),
    exports={"baichuan": baichuan.as_first_generation},
    not_exported=(
        "its linear position biases (ALiBi) exist in no living architecture with these blocks: "
        "Llama's are rotary"
    ),
)

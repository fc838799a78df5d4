"""Baichuan-13B: linear position biases (ALiBi) and W_pack."""

from typing import Any

from danlu.models import baichuan
from danlu.models.family import Family, always


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return baichuan.tiny("BaichuanForCausalLM", max_position_embeddings=None, model_max_length=128)


FAMILY = Family(
    summary="Baichuan-13B",
    matches=baichuan.Variant(1, rotary=False).matches,
    read_config=baichuan.read_alibi,
    rules=baichuan.rules,
    tiny=tiny,
    ignored_keys=baichuan.IGNORED,
    ignored_tensors=baichuan.IGNORED_TENSORS,
    aliases=("baichuan1_13b",),
    chat_format=always("baichuan1-chat"),
    not_exported=(
        "its linear position biases (ALiBi) exist in no living architecture with these blocks: "
        "Llama's are rotary"
    ),
)

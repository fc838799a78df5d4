"""Baichuan-7B: Llama with queries, keys and values in one W_pack."""

from typing import Any

from danlu.models import baichuan
from danlu.models.family import Family, always
from danlu.models.reexpressing import as_llama


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return baichuan.tiny("BaiChuanForCausalLM")


FAMILY = Family(
    summary="Baichuan-7B",
    matches=baichuan.Variant(1, rotary=True).matches,
    read_config=baichuan.read_rotary,
    rules=baichuan.rules,
    tiny=tiny,
    ignored_keys=baichuan.IGNORED,
    ignored_tensors=baichuan.IGNORED_TENSORS,
    aliases=("baichuan1", "baichuan1_7b"),
    chat_format=always("baichuan1-chat"),
    exports={"transformers": as_llama},
)

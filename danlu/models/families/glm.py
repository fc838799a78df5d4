"""GLM-4 as transformers writes it (glm-4-9b-hf); not the GLM of 2021, which shares its model_type.

Source: arXiv:2406.12793 and the GlmConfig of transformers 5.
"""

from collections.abc import Mapping
from typing import Any

from danlu.models import glm4
from danlu.models.family import Family, always
from danlu.models.llama_like import IGNORED
from danlu.models.reexpressing import unchanged

ARCHITECTURES = (["GlmForCausalLM"], ["GlmModel"])


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json is of 2024: GlmForCausalLM (mind the case), no block positions."""
    if values.get("model_type") != "glm" or "block_position_encoding" in values:
        return False
    return values.get("architectures") in (None, *ARCHITECTURES)


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return dict(glm4.tiny("GlmForCausalLM", "glm"))


FAMILY = Family(
    summary="GLM-4 in the layout of transformers (glm-4-9b-chat-hf)",
    matches=matches,
    read_config=glm4.read_config,
    rules=glm4.rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    aliases=("glm4_hf", "glm_4_9b_hf"),
    chat_format=always("glm4-chat"),
    exports={"transformers": unchanged("glm")},
)

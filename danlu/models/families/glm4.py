"""GLM-4-0414: GLM-4 with a norm on each sublayer's output too (sandwich norm).

Source: the Glm4Config of transformers 5; config keys as published for GLM-4-9B-0414.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from danlu.models import glm4
from danlu.models.block import DecoderBlock
from danlu.models.config import DecoderConfig
from danlu.models.family import Family, RawConfig, always
from danlu.models.llama_like import IGNORED
from danlu.models.reexpressing import unchanged
from danlu.nn.attention import AttentionContext, SelfAttention
from danlu.nn.positions import Rotation


class SandwichBlock(DecoderBlock):
    """x + norm(attention(norm(x))), then x + norm(mlp(norm(x)))."""

    def __init__(
        self,
        attention: SelfAttention,
        mlp: nn.Module,
        norm: Callable[[int], nn.Module],
        hidden_size: int,
    ) -> None:
        super().__init__(attention, mlp, norm, hidden_size)
        self.post_self_attn_layernorm = norm(hidden_size)
        self.post_mlp_layernorm = norm(hidden_size)

    def forward(self, x_BTD: Tensor, rotation: Rotation, attn: AttentionContext) -> Tensor:
        """Return the residual stream after this block."""
        attended_BTD = self.self_attn(self.input_layernorm(x_BTD), rotation, attn)
        x_BTD = x_BTD + self.post_self_attn_layernorm(attended_BTD)
        mixed_BTD = self.mlp(self.post_attention_layernorm(x_BTD))
        out_BTD: Tensor = x_BTD + self.post_mlp_layernorm(mixed_BTD)
        return out_BTD


def matches(values: Mapping[str, Any]) -> bool:
    """Return whether config.json says Glm4."""
    return values.get("model_type") == "glm4"


def read_config(raw: RawConfig) -> DecoderConfig:
    """Return the decoder config."""
    return replace(glm4.read_config(raw), block=SandwichBlock)


def tiny() -> dict[str, Any]:
    """Return a config.json of a two-layer model."""
    return dict(glm4.tiny("Glm4ForCausalLM", "glm4"))


FAMILY = Family(
    summary="GLM-4-9B-0414 and GLM-4-32B-0414",
    matches=matches,
    read_config=read_config,
    rules=glm4.rules,
    tiny=tiny,
    ignored_keys=IGNORED,
    aliases=("glm4_0414",),
    chat_format=always("glm4-chat"),
    exports={"transformers": unchanged("glm4")},
)

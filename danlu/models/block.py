"""One layer of a decoder: attention and MLP, each beside a residual stream."""

from collections.abc import Callable

from torch import Tensor, nn

from danlu.nn.attention import AttentionContext, SelfAttention
from danlu.nn.positions import Rotation


class DecoderBlock(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        attention: the layer's attention.
        mlp: its MLP.
        norm: makes its norms.
        hidden_size: width of the residual stream.
    """

    def __init__(
        self,
        attention: SelfAttention,
        mlp: nn.Module,
        norm: Callable[[int], nn.Module],
        hidden_size: int,
    ) -> None:
        super().__init__()
        self.input_layernorm = norm(hidden_size)
        self.self_attn = attention
        self.post_attention_layernorm = norm(hidden_size)
        self.mlp = mlp

    def forward(self, x_BTD: Tensor, rotation: Rotation, attn: AttentionContext) -> Tensor:
        """Return the residual stream after this block."""
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rotation, attn)
        out_BTD: Tensor = x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
        return out_BTD

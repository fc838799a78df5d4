"""One layer of a decoder: attention and MLP, each beside a residual stream."""

from collections.abc import Callable
from typing import ClassVar

from torch import Tensor, nn

from danlu.nn.attention import AttentionContext, SelfAttention
from danlu.nn.positions import Rotation
from danlu.nn.scaling import Scalable, ScalingGroup


class DecoderBlock(nn.Module):
    """Pre-norm residual block: x + attention(norm(x)), then x + mlp(norm(x)).

    Args:
        attention: the layer's attention.
        mlp: its MLP.
        norm: makes its norms.
        hidden_size: width of the residual stream.

    Attributes:
        norms_for_sublayers: norms whose output a sublayer alone reads, and no residual stream.
    """

    norms_for_sublayers: ClassVar[tuple[str, ...]] = (
        "input_layernorm",
        "post_attention_layernorm",
    )

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

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return where scales can be folded, in the order of the forward pass; names in it."""
        found = []
        for norm, name in (("input_layernorm", "self_attn"), ("post_attention_layernorm", "mlp")):
            sublayer = self.get_submodule(name)
            if isinstance(sublayer, Scalable):
                if norm in self.norms_for_sublayers:
                    readers = tuple(f"{name}.{reader}" for reader in sublayer.readers())
                    found.append(ScalingGroup(norm, readers, "norm"))
                found += [group.under(f"{name}.") for group in sublayer.scaling_groups()]
        return found

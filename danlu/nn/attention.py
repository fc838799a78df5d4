"""Self-attention modules, and what they ask of the context that decides who sees whom.

A module projects and rotates; it then hands queries, keys and values to an `AttentionContext`.
Causal, packed, padded and cached attention are contexts, so the model is one and the same in
training and serving.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Protocol

from torch import Tensor, nn

from danlu.nn.linear import LinearLike
from danlu.nn.positions import Rotation
from danlu.nn.scaling import ScalingGroup, value_rows


@dataclass(frozen=True)
class AttentionLayer:
    """What a context must know of the layer that asks it.

    Attributes:
        index: number of the layer, from 0; a cache keeps keys and values under it.
        scale: factor on the scores.
        slopes: linear-bias slope of each query head (ALiBi), or None.
        window: slots that a query sees, itself included (sliding window), or None.
    """

    index: int
    scale: float
    slopes: tuple[float, ...] | None = None
    window: int | None = None


class AttentionContext(Protocol):
    """Decides what each query sees; may remember keys and values."""

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d]."""


class SelfAttention(nn.Module, ABC):
    """What every attention module does: project, attend, project back.

    A subclass sets `o_proj` after its own projections: the order of layers is that of the fresh
    weights drawn for them.
    """

    o_proj: LinearLike

    def __init__(self, layer: AttentionLayer) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x_BTD: Tensor, rotation: Rotation, attn: AttentionContext) -> Tensor:
        """Return the attention output [B, T, D]."""
        q, k, v = self.project(x_BTD, rotation)
        out_BTD: Tensor = self.o_proj(attn.attend(self.layer, q, k, v).flatten(-2))
        return out_BTD

    @abstractmethod
    def project(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [B, T, H, d], rotated keys and plain values [B, T, K, d]."""

    @abstractmethod
    def readers(self) -> tuple[str, ...]:
        """Return the layers that read its input."""

    @abstractmethod
    def scaling_groups(self) -> list[ScalingGroup]:
        """Return where scales can be folded inside it."""


class Attention(SelfAttention):
    """Multi-head attention with grouped keys and values (arXiv:1706.03762, arXiv:2305.13245)."""

    fuses: ClassVar[tuple[str, ...]] = ("q_proj", "k_proj", "v_proj")

    def __init__(
        self,
        layer: AttentionLayer,
        head_dim: int,
        q_proj: LinearLike,
        k_proj: LinearLike,
        v_proj: LinearLike,
        o_proj: LinearLike,
    ) -> None:
        super().__init__(layer)
        self.head_dim = head_dim
        self.q_proj = q_proj
        self.k_proj = k_proj
        self.v_proj = v_proj
        self.o_proj = o_proj

    def project(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [B, T, H, d], rotated keys and plain values [B, T, K, d]."""
        q_BTHd, k_BTKd, v_BTKd = self.heads(x_BTD)
        return rotation.scale_queries(rotation(q_BTHd)), rotation(k_BTKd), v_BTKd

    def heads(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return queries [B, T, H, d], keys and values [B, T, K, d] before rotation."""
        split = (-1, self.head_dim)
        q_BTHd, k_BTKd = self.q_proj(x_BTD).unflatten(-1, split), self.k_proj(x_BTD)
        return q_BTHd, k_BTKd.unflatten(-1, split), self.v_proj(x_BTD).unflatten(-1, split)

    def readers(self) -> tuple[str, ...]:
        """Return the layers that read its input."""
        return self.fuses

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return the values: attention takes their mean, channel by channel."""
        num_heads, num_kv_heads = self.fused_heads()
        rows = value_rows(num_heads, num_kv_heads, self.head_dim)
        return [ScalingGroup("v_proj", ("o_proj",), "value", rows)]

    def fused(self, linear: LinearLike) -> "FusedAttention":
        """Return this attention with one projection for queries, keys and values."""
        return FusedAttention(self.layer, self.head_dim, self.fused_heads(), linear, self.o_proj)

    def fused_heads(self) -> tuple[int, int]:
        """Return the numbers of query heads and of key heads."""
        return (
            self.q_proj.out_features // self.head_dim,
            self.k_proj.out_features // self.head_dim,
        )


class FusedAttention(SelfAttention):
    """`Attention` for inference: one product and one rotation for queries and keys together."""

    def __init__(
        self,
        layer: AttentionLayer,
        head_dim: int,
        num_heads: tuple[int, int],
        qkv_proj: LinearLike,
        o_proj: LinearLike,
    ) -> None:
        super().__init__(layer)
        self.head_dim = head_dim
        self.num_query_heads, self.num_kv_heads = num_heads
        self.qkv_proj = qkv_proj
        self.o_proj = o_proj

    def project(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [B, T, H, d], rotated keys and plain values [B, T, K, d]."""
        heads = self.qkv_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        turned = self.num_query_heads + self.num_kv_heads
        rotated, v_BTKd = rotation(heads[..., :turned, :]), heads[..., turned:, :]
        q_BTHd = rotation.scale_queries(rotated[..., : self.num_query_heads, :])
        return q_BTHd, rotated[..., self.num_query_heads :, :], v_BTKd

    def readers(self) -> tuple[str, ...]:
        """Return the layer that reads its input."""
        return ("qkv_proj",)

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return nothing: its layers are packed for inference."""
        return []


class QKNormAttention(Attention):
    """`Attention` that normalises each query and key head before it is rotated (Qwen3)."""

    def __init__(
        self,
        layer: AttentionLayer,
        head_dim: int,
        q_proj: LinearLike,
        k_proj: LinearLike,
        v_proj: LinearLike,
        o_proj: LinearLike,
        *,
        q_norm: nn.Module,
        k_norm: nn.Module,
    ) -> None:
        super().__init__(layer, head_dim, q_proj, k_proj, v_proj, o_proj)
        self.q_norm = q_norm
        self.k_norm = k_norm

    def heads(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return normalised queries and keys, and values, before rotation."""
        q_BTHd, k_BTKd, v_BTKd = super().heads(x_BTD)
        return self.q_norm(q_BTHd), self.k_norm(k_BTKd), v_BTKd

    def fused(self, linear: LinearLike) -> "FusedQKNormAttention":
        """Return this attention with one projection for queries, keys and values."""
        return FusedQKNormAttention(
            self.layer,
            self.head_dim,
            self.fused_heads(),
            linear,
            self.o_proj,
            q_norm=self.q_norm,
            k_norm=self.k_norm,
        )


class FusedQKNormAttention(FusedAttention):
    """`QKNormAttention` for inference: one product for queries, keys and values."""

    def __init__(
        self,
        layer: AttentionLayer,
        head_dim: int,
        num_heads: tuple[int, int],
        qkv_proj: LinearLike,
        o_proj: LinearLike,
        *,
        q_norm: nn.Module,
        k_norm: nn.Module,
    ) -> None:
        super().__init__(layer, head_dim, num_heads, qkv_proj, o_proj)
        self.q_norm = q_norm
        self.k_norm = k_norm

    def project(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [B, T, H, d], rotated keys and plain values [B, T, K, d]."""
        heads = self.qkv_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        q_BTHd, k_BTKd, v_BTKd = heads.split(
            (self.num_query_heads, self.num_kv_heads, self.num_kv_heads), dim=-2
        )
        q_BTHd, k_BTKd = rotation(self.q_norm(q_BTHd)), rotation(self.k_norm(k_BTKd))
        return rotation.scale_queries(q_BTHd), k_BTKd, v_BTKd

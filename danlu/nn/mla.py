"""Multi-head latent attention: keys and values of all heads come out of one small vector per token.

Source: DeepSeek-V2 (arXiv:2405.04434, sec. 2.1) as in DeepSeek-V3 (arXiv:2412.19437, sec. 2.1.1).
Keys and values are expanded per head before they are kept.
"""

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from danlu.nn.attention import AttentionLayer, SelfAttention
from danlu.nn.linear import LinearLike
from danlu.nn.positions import Rotation
from danlu.nn.scaling import ScalingGroup


@dataclass(frozen=True)
class LatentWidths:
    """How the vectors of latent attention are divided.

    Attributes:
        latent: width of the vector that keys and values are expanded from.
        plain: dims of each query and key head that know no position.
        rotary: dims behind them that are rotated; all key heads share theirs.
        value: dims of each value head.
    """

    latent: int
    plain: int
    rotary: int
    value: int

    @property
    def head(self) -> int:
        """Dims of a query or key head."""
        return self.plain + self.rotary

    def value_rows(self, num_heads: int) -> tuple[int, ...]:
        """Return the rows of `LowRank.up` that are values: behind the plain key of each head."""
        starts = (head * (self.plain + self.value) + self.plain for head in range(num_heads))
        return tuple(start + dim for start in starts for dim in range(self.value))


@dataclass(frozen=True)
class LowRank:
    """A projection through a small vector: up(norm(down(x))).

    Attributes:
        down: to the small vector; for keys and values the shared rotary key lies behind it.
        norm: of the small vector.
        up: to all heads; for keys and values, the plain key and the value of each head in turn.
    """

    down: LinearLike
    norm: nn.Module
    up: LinearLike


class LatentAttention(SelfAttention):
    """What latent attention does whichever way its queries are made."""

    def __init__(
        self,
        layer: AttentionLayer,
        widths: LatentWidths,
        key_value: LowRank,
        o_proj: LinearLike,
    ) -> None:
        super().__init__(layer)
        self.widths = widths
        self.kv_a_proj_with_mqa = key_value.down
        self.kv_a_layernorm = key_value.norm
        self.kv_b_proj = key_value.up
        self.o_proj = o_proj

    @abstractmethod
    def queries(self, x_BTD: Tensor) -> Tensor:
        """Return the queries of all heads side by side, before rotation."""

    def project(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries and keys [B, T, H, head], and values [B, T, H, value]."""
        widths = self.widths
        q_BTHd = self.queries(x_BTD).unflatten(-1, (-1, widths.head))
        plain, turned = q_BTHd.split((widths.plain, widths.rotary), dim=-1)
        q_BTHd = rotation.scale_queries(torch.cat((plain, rotation(turned)), dim=-1))
        k_BTHd, v_BTHd = self._keys_and_values(x_BTD, rotation)
        return q_BTHd, k_BTHd, v_BTHd

    def _keys_and_values(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        widths = self.widths
        latent, shared = self.kv_a_proj_with_mqa(x_BTD).split((widths.latent, widths.rotary), -1)
        heads = self.kv_b_proj(self.kv_a_layernorm(latent)).unflatten(
            -1, (-1, widths.plain + widths.value)
        )
        plain, v_BTHd = heads.split((widths.plain, widths.value), dim=-1)
        turned = rotation(shared[..., None, :]).expand(*plain.shape[:-1], -1)
        return torch.cat((plain, turned), dim=-1), v_BTHd

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return the norm of the small vector, and the values that come out of it."""
        rows = self.widths.value_rows(self.o_proj.in_features // self.widths.value)
        return [
            ScalingGroup("kv_a_layernorm", ("kv_b_proj",), "norm"),
            ScalingGroup("kv_b_proj", ("o_proj",), "value", rows),
        ]


class FullQueryLatentAttention(LatentAttention):
    """Latent attention with one projection for queries (where `q_lora_rank` is null)."""

    def __init__(
        self,
        layer: AttentionLayer,
        widths: LatentWidths,
        q_proj: LinearLike,
        key_value: LowRank,
        o_proj: LinearLike,
    ) -> None:
        super().__init__(layer, widths, key_value, o_proj)
        self.q_proj = q_proj

    def queries(self, x_BTD: Tensor) -> Tensor:
        """Return the queries of all heads side by side, before rotation."""
        out: Tensor = self.q_proj(x_BTD)
        return out

    def readers(self) -> tuple[str, ...]:
        """Return the layers that read its input."""
        return ("q_proj", "kv_a_proj_with_mqa")


class LowRankQueryLatentAttention(LatentAttention):
    """Latent attention whose queries, too, come out of a small vector."""

    def __init__(
        self,
        layer: AttentionLayer,
        widths: LatentWidths,
        query: LowRank,
        key_value: LowRank,
        o_proj: LinearLike,
    ) -> None:
        super().__init__(layer, widths, key_value, o_proj)
        self.q_a_proj = query.down
        self.q_a_layernorm = query.norm
        self.q_b_proj = query.up

    def queries(self, x_BTD: Tensor) -> Tensor:
        """Return the queries of all heads side by side, before rotation."""
        out: Tensor = self.q_b_proj(self.q_a_layernorm(self.q_a_proj(x_BTD)))
        return out

    def readers(self) -> tuple[str, ...]:
        """Return the layers that read its input."""
        return ("q_a_proj", "kv_a_proj_with_mqa")

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return the norms of the small vectors, and the values."""
        queries = ScalingGroup("q_a_layernorm", ("q_b_proj",), "norm")
        return [queries, *super().scaling_groups()]

"""Self-attention, and the contexts that decide which tokens may see which.

The module projects and rotates; it then hands queries, keys and values to an `AttentionContext`.
Causal, packed, padded and cached attention are contexts, so the model is one and the same in
training and serving.
"""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.nn.linear import LinearLike
from danlu.nn.positions import Rotation

PLAIN_SCORES = 2**25  # scores that may exist at once where attention is computed as it is written


@dataclass(frozen=True)
class AttentionLayer:
    """What a context must know of the layer that asks it.

    Attributes:
        index: number of the layer, from 0; a cache keeps keys and values under it.
        scale: factor on the scores.
        slopes: linear-bias slope of each query head (ALiBi), or None.
    """

    index: int
    scale: float
    slopes: tuple[float, ...] | None = None


class AttentionContext(Protocol):
    """Decides what each query sees; may remember keys and values."""

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d]."""


class Attention(nn.Module):
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
        super().__init__()
        self.layer = layer
        self.head_dim = head_dim
        self.q_proj = q_proj
        self.k_proj = k_proj
        self.v_proj = v_proj
        self.o_proj = o_proj

    def forward(self, x_BTD: Tensor, rotation: Rotation, attn: AttentionContext) -> Tensor:
        """Return the attention output [B, T, D]."""
        q, k, v = self.project(x_BTD, rotation)
        out_BTD: Tensor = self.o_proj(attn.attend(self.layer, q, k, v).flatten(-2))
        return out_BTD

    def project(self, x_BTD: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries [B, T, H, d], rotated keys and plain values [B, T, K, d]."""
        split = (-1, self.head_dim)
        q_BTHd = rotation(self.q_proj(x_BTD).unflatten(-1, split))
        k_BTKd = rotation(self.k_proj(x_BTD).unflatten(-1, split))
        return q_BTHd, k_BTKd, self.v_proj(x_BTD).unflatten(-1, split)

    def fused(self, linear: LinearLike) -> "FusedAttention":
        """Return this attention with one projection for queries, keys and values."""
        sizes = [getattr(self, name).out_features // self.head_dim for name in self.fuses]
        return FusedAttention(self.layer, self.head_dim, (sizes[0], sizes[1]), linear, self.o_proj)


class FusedAttention(nn.Module):
    """`Attention` for inference: one product and one rotation for queries and keys together."""

    def __init__(
        self,
        layer: AttentionLayer,
        head_dim: int,
        num_heads: tuple[int, int],
        qkv_proj: LinearLike,
        o_proj: LinearLike,
    ) -> None:
        super().__init__()
        self.layer = layer
        self.head_dim = head_dim
        self.num_query_heads, self.num_kv_heads = num_heads
        self.qkv_proj = qkv_proj
        self.o_proj = o_proj

    def forward(self, x_BTD: Tensor, rotation: Rotation, attn: AttentionContext) -> Tensor:
        """Return the attention output [B, T, D]."""
        heads = self.qkv_proj(x_BTD).unflatten(-1, (-1, self.head_dim))
        turned = self.num_query_heads + self.num_kv_heads
        rotated, v_BTKd = rotation(heads[..., :turned, :]), heads[..., turned:, :]
        q_BTHd = rotated[..., : self.num_query_heads, :]
        k_BTKd = rotated[..., self.num_query_heads :, :]
        out_BTD: Tensor = self.o_proj(attn.attend(self.layer, q_BTHd, k_BTKd, v_BTKd).flatten(-2))
        return out_BTD


class DenseContext:
    """Attention over the tokens at hand, with an explicit mask or plainly causal.

    Args:
        visible_BTS: True where query t may see key s; None: causal, s <= t.
        query_positions_BT: positions for linear biases.
        key_positions_BS: likewise for the keys.
    """

    def __init__(
        self, visible_BTS: Tensor | None, query_positions_BT: Tensor, key_positions_BS: Tensor
    ) -> None:
        self._visible_BTS = visible_BTS
        self._query_positions_BT = query_positions_BT
        self._key_positions_BS = key_positions_BS
        self._biases: dict[tuple[tuple[float, ...] | None, torch.dtype], Tensor | None] = {}

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d]."""
        q, k, v = q_BTHd.transpose(1, 2), k_BTKd.transpose(1, 2), v_BTKd.transpose(1, 2)
        return scaled_attention(q, k, v, layer.scale, self.mask(layer, q.dtype)).transpose(1, 2)

    def mask(self, layer: AttentionLayer, dtype: torch.dtype) -> Tensor | None:
        """Return the layer's mask [B, 1 or H, T, S] (boolean or additive); None: plainly causal."""
        key = (layer.slopes, dtype)
        if key not in self._biases:
            self._biases[key] = self._build_mask(layer.slopes, dtype)
        return self._biases[key]

    def _build_mask(self, slopes: tuple[float, ...] | None, dtype: torch.dtype) -> Tensor | None:
        if slopes is None:
            return None if self._visible_BTS is None else self._visible_BTS[:, None]
        queries, keys = self._query_positions_BT, self._key_positions_BS
        visible = self._visible_BTS
        if visible is None:
            visible = causal_mask(queries.shape[-1], keys.shape[-1], queries.device)
        distance_B1TS = (keys[:, None, :] - queries[:, :, None])[:, None].float()
        slope_H11 = torch.tensor(slopes, device=queries.device)[:, None, None]
        bias = (slope_H11 * distance_B1TS).masked_fill(~visible[:, None], -math.inf)
        return bias.to(dtype)


def scaled_attention(
    q_BHTd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, scale: float, mask: Tensor | None
) -> Tensor:
    """Return softmax(q k^T * scale + mask) v as [B, H, T, d]; without a mask it is causal.

    Grouped heads are folded or repeated here: the fused CPU kernel takes neither groups (it falls
    back to a path 10 times slower) nor a broadcast over them.

    Args:
        q_BHTd: queries; query head h uses kv head h // (H / K).
        k_BKSd: keys; with no mask and T < S the queries are the last T tokens.
        v_BKSd: values.
        scale: factor on the scores.
        mask: [B or 1, 1 or H, T, S], boolean (True: visible) or additive, or None.
    """
    groups = q_BHTd.shape[1] // k_BKSd.shape[1]
    num_queries, num_keys = q_BHTd.shape[2], k_BKSd.shape[2]
    if num_queries == 1 and mask is None:
        return _single_query(q_BHTd, k_BKSd, v_BKSd, scale)
    if mask is None and (num_queries != num_keys or _is_plain_faster(q_BHTd, num_keys)):
        mask = causal_mask(num_queries, num_keys, q_BHTd.device)[:, None]
    if mask is not None and _is_plain_faster(q_BHTd, num_keys):
        return _plain_attention(q_BHTd, k_BKSd, v_BKSd, scale, mask)
    if groups > 1:
        k_BKSd = k_BKSd.repeat_interleave(groups, dim=1)
        v_BKSd = v_BKSd.repeat_interleave(groups, dim=1)
    return F.scaled_dot_product_attention(
        q_BHTd, k_BKSd, v_BKSd, attn_mask=mask, is_causal=mask is None, scale=scale
    )


def _single_query(q_BH1d: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, scale: float) -> Tensor:
    """One query that sees every key: the heads of a group become the queries of its kv head."""
    batch, heads, _, head_dim = q_BH1d.shape
    q_BKGd = q_BH1d.reshape(batch, k_BKSd.shape[1], -1, head_dim)
    out_BKGd = F.scaled_dot_product_attention(q_BKGd, k_BKSd, v_BKSd, scale=scale)
    return out_BKGd.reshape(batch, heads, 1, head_dim)


def _is_plain_faster(q_BHTd: Tensor, num_keys: int) -> bool:
    """Training in bfloat16 on the CPU: the fused kernel's backward pass is several times slower."""
    trains = q_BHTd.requires_grad and torch.is_grad_enabled()
    on_cpu = q_BHTd.device.type == "cpu" and q_BHTd.dtype == torch.bfloat16
    return trains and on_cpu and q_BHTd[..., 0].numel() * num_keys <= PLAIN_SCORES


def _plain_attention(
    q_BHTd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, scale: float, mask: Tensor
) -> Tensor:
    """The formula as it stands; the heads of a group are extra queries of their kv head."""
    batch, heads, num_queries, _ = q_BHTd.shape
    kv_heads, num_keys = k_BKSd.shape[1], k_BKSd.shape[2]
    groups = heads // kv_heads
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q_BHTd.dtype).masked_fill_(~mask, -math.inf)
    mask = mask.expand(-1, heads, -1, -1).unflatten(1, (kv_heads, groups))
    q_BKNd = (q_BHTd * scale).reshape(batch, kv_heads, groups * num_queries, -1)
    scores_BKNS = q_BKNd @ k_BKSd.transpose(-1, -2)
    scores_BKGTS = scores_BKNS.view(batch, kv_heads, groups, num_queries, num_keys) + mask
    weights_BKNS = scores_BKGTS.softmax(-1).flatten(2, 3)
    return (weights_BKNS @ v_BKSd).reshape(batch, heads, num_queries, -1)


def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Return visibility [1, T, S] of the last T of S tokens: itself and what is before."""
    queries = torch.arange(num_keys - num_queries, num_keys, device=device)
    return (torch.arange(num_keys, device=device) <= queries[:, None])[None]


def padded_context(attention_mask_BT: Tensor | None, positions_BT: Tensor) -> DenseContext:
    """Return causal attention over a batch padded anywhere; padding sees only itself.

    Args:
        attention_mask_BT: nonzero for real tokens; None or all real: plainly causal.
        positions_BT: positions for linear biases.
    """
    if attention_mask_BT is None or bool(attention_mask_BT.all()):
        return DenseContext(None, positions_BT, positions_BT)
    num_tokens = attention_mask_BT.shape[1]
    real = attention_mask_BT.bool()
    visible = causal_mask(num_tokens, num_tokens, real.device) & real[:, None, :]
    return DenseContext(_with_self(visible), positions_BT, positions_BT)


def _with_self(visible_BTT: Tensor) -> Tensor:
    """Let every token see itself, so that no row of the softmax is empty."""
    return visible_BTT | torch.eye(
        visible_BTT.shape[-1], dtype=torch.bool, device=visible_BTT.device
    )

"""Keys and values in 8 bits: by a scale for each token and head as it comes, or by fixed scales.

Fixed scales are those of compressed-tensors (k_scale, v_scale): found on calibration text, codes in
[-128, 127]. Everything that attends to a decoder's keys and values sees them rounded alike, with a
cache or without: `CacheRounding` is the store of a cache, and `rounded` for what has none.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.nn.rounded_store import (
    FixedBlock,
    RoundedStore,
    TokenBlock,
    codes_by_scale,
    codes_by_token,
)
from danlu.nn.stores import KVShape, Room

SCALE_BYTES = 4  # float32


class CacheRounding(ABC):
    """How the keys and values of a decoder are rounded; a `danlu.nn.stores.Keeping`."""

    @property
    @abstractmethod
    def summary(self) -> str:
        """The rounding in words."""

    @abstractmethod
    def store(self, layer: int, shape: KVShape, room: Room) -> RoundedStore:
        """Return an empty store for a layer."""

    @abstractmethod
    def token_bytes(self, shape: KVShape, dtype: torch.dtype) -> int:
        """Return the bytes that a layer of that shape keeps per token."""

    @abstractmethod
    def rounded(self, layer: int, k_BTKd: Tensor, v_BTKd: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values as they would be read again; gradients pass straight through."""


class TokenRounding(CacheRounding):
    """A scale for each token and head, found as it comes: max |x| / 127."""

    @property
    def summary(self) -> str:
        """The rounding in words."""
        return "8 bits, a scale for each token and head"

    def store(self, layer: int, shape: KVShape, room: Room) -> RoundedStore:
        """Return an empty store for a layer."""
        keys = TokenBlock(shape.num_kv_heads, shape.head_dim, room)
        values = TokenBlock(shape.num_kv_heads, shape.value_dim, room)
        return RoundedStore(keys, values, room)

    def token_bytes(self, shape: KVShape, dtype: torch.dtype) -> int:
        """Return the bytes that a layer of that shape keeps per token."""
        return shape.numbers + 2 * shape.num_kv_heads * SCALE_BYTES

    def rounded(self, layer: int, k_BTKd: Tensor, v_BTKd: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values as they would be read again."""
        k, v = (_straight_through(x, torch.mul(*codes_by_token(x))) for x in (k_BTKd, v_BTKd))
        return k, v


@dataclass(frozen=True)
class FixedRounding(CacheRounding):
    """Scales that do not change; what exceeds them is cut.

    Attributes:
        keys: scales of each layer [K], or [1] for all heads, of any floating-point dtype.
        values: likewise.
    """

    keys: Sequence[Tensor]
    values: Sequence[Tensor]

    @property
    def per_head(self) -> bool:
        """Whether heads have scales of their own."""
        return any(len(scales) > 1 for scales in (*self.keys, *self.values))

    @property
    def summary(self) -> str:
        """The rounding in words."""
        return f"8 bits, fixed scales for each {'head' if self.per_head else 'layer'}"

    def store(self, layer: int, shape: KVShape, room: Room) -> RoundedStore:
        """Return an empty store for a layer."""
        keys = FixedBlock(self.keys[layer], shape.num_kv_heads, shape.head_dim, room)
        values = FixedBlock(self.values[layer], shape.num_kv_heads, shape.value_dim, room)
        return RoundedStore(keys, values, room)

    def token_bytes(self, shape: KVShape, dtype: torch.dtype) -> int:
        """Return the bytes that a layer of that shape keeps per token."""
        return shape.numbers

    def rounded(self, layer: int, k_BTKd: Tensor, v_BTKd: Tensor) -> tuple[Tensor, Tensor]:
        """Return keys and values as they would be read again."""
        k_scales, v_scales = self.keys[layer][:, None], self.values[layer][:, None]
        return _on_scales(k_BTKd, k_scales), _on_scales(v_BTKd, v_scales)


def _on_scales(heads_BTKd: Tensor, scales_K1: Tensor) -> Tensor:
    scales_K1 = scales_K1.to(heads_BTKd.device, torch.float32)
    return _straight_through(heads_BTKd, codes_by_scale(heads_BTKd, scales_K1) * scales_K1)


def _straight_through(exact: Tensor, rounded: Tensor) -> Tensor:
    if not (torch.is_grad_enabled() and exact.requires_grad):
        return rounded.to(exact.dtype)
    return exact + (rounded.to(exact.dtype) - exact).detach()

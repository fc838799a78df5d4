"""How the keys and values of one layer are kept while a text grows: as they come."""

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from danlu.nn.scaled_attention import scaled_attention


class KVShape(NamedTuple):
    """What a layer keeps per token: `num_kv_heads` keys and as many values."""

    num_kv_heads: int
    head_dim: int
    value_dim: int

    @property
    def numbers(self) -> int:
        """How many numbers that is."""
        return self.num_kv_heads * (self.head_dim + self.value_dim)


class Scratch:
    """Memory that the layers of a cache use one after the other; asked for anew it is the same.

    Allocating it at every step would cost more than what is done in it.
    """

    def __init__(self) -> None:
        self._numbers = torch.empty(0)

    def room(self, *size: int) -> Tensor:
        """Return a float32 tensor on the CPU with any numbers; valid until the next call."""
        count = math.prod(size)
        if count > len(self._numbers):
            with torch.inference_mode(False):  # of use in either mode
                self._numbers = torch.empty(count)
        return self._numbers[:count].view(size)


@dataclass(frozen=True)
class Room:
    """How much the stores of a cache hold.

    Attributes:
        batch_size: rows.
        max_tokens: slots of each row.
        dtype: that keys and values come and go in.
        device: where they are kept.
        scratch: shared by all layers.
    """

    batch_size: int
    max_tokens: int
    dtype: torch.dtype
    device: torch.device | str
    scratch: Scratch = field(default_factory=Scratch)


class Store(Protocol):
    """Keys and values of one layer, in slots that all rows share."""

    def write(self, start: int, k_BTKd: Tensor, v_BTKd: Tensor) -> None:
        """Fill the slots from `start` on."""

    def read(self, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, K, S, d] of the slots before `end`; valid until `select`."""

    def attend(self, q_BHTd: Tensor, end: int, scale: float, mask: Tensor | None) -> Tensor:
        """Return the values [B, H, T, d] that queries attend to in the slots before `end`.

        Args:
            q_BHTd: queries.
            end: one past the last slot that is filled.
            scale: factor on the scores.
            mask: as for `scaled_attention`.
        """

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` (indices, in their order; repeats make copies)."""


class Keeping(Protocol):
    """How keys and values are kept."""

    def store(self, layer: int, shape: KVShape, room: Room) -> Store:
        """Return an empty store for a layer."""

    def token_bytes(self, shape: KVShape, dtype: torch.dtype) -> int:
        """Return the bytes that a layer of that shape keeps per token."""


class PlainStore:
    """Keys and values as they come, in one contiguous block each."""

    def __init__(self, shape: KVShape, room: Room) -> None:
        def block(dim: int) -> Tensor:
            size = (room.batch_size, shape.num_kv_heads, room.max_tokens, dim)
            return torch.empty(size, dtype=room.dtype, device=room.device)

        self._keys_BKSd = block(shape.head_dim)
        self._values_BKSd = block(shape.value_dim)

    def write(self, start: int, k_BTKd: Tensor, v_BTKd: Tensor) -> None:
        """Fill the slots from `start` on."""
        end = start + k_BTKd.shape[1]
        self._keys_BKSd[:, :, start:end] = k_BTKd.transpose(1, 2)
        self._values_BKSd[:, :, start:end] = v_BTKd.transpose(1, 2)

    def read(self, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, K, S, d] of the slots before `end`; valid until `select`."""
        return self._keys_BKSd[:, :, :end], self._values_BKSd[:, :, :end]

    def attend(self, q_BHTd: Tensor, end: int, scale: float, mask: Tensor | None) -> Tensor:
        """Return the values [B, H, T, d] that queries attend to in the slots before `end`."""
        keys, values = self.read(end)
        return scaled_attention(q_BHTd, keys, values, scale, mask)

    def select(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self._keys_BKSd = self._keys_BKSd[rows]
        self._values_BKSd = self._values_BKSd[rows]


class Plain:
    """Keys and values are kept as they come."""

    def store(self, layer: int, shape: KVShape, room: Room) -> PlainStore:
        """Return an empty store for a layer."""
        return PlainStore(shape, room)

    def token_bytes(self, shape: KVShape, dtype: torch.dtype) -> int:
        """Return the bytes that a layer of that shape keeps per token."""
        return shape.numbers * dtype.itemsize


PLAIN = Plain()

"""Room for the keys and values of one layer in 8 bits."""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from danlu.nn.int8_attention import Codes, int8_attention
from danlu.nn.stores import Room

LOW, HIGH = -128, 127
SMALLEST_SCALE = torch.finfo(torch.float32).tiny


class CodeBlock(ABC):
    """Room for the codes of the keys, or of the values, of one layer."""

    def __init__(self, num_heads: int, dim: int, room: Room) -> None:
        size = (room.batch_size, num_heads, room.max_tokens, dim)
        self.codes_BKSd = torch.empty(size, dtype=torch.int8, device=room.device)

    @abstractmethod
    def write(self, start: int, heads_BTKd: Tensor) -> None:
        """Round into the slots from `start` on."""

    @abstractmethod
    def read(self, end: int) -> Codes:
        """Return the slots before `end`; valid until `select`."""

    def select(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self.codes_BKSd = self.codes_BKSd[rows]


class TokenBlock(CodeBlock):
    """Codes with a scale for each token and head."""

    def __init__(self, num_heads: int, dim: int, room: Room) -> None:
        super().__init__(num_heads, dim, room)
        self.scales_BKS = torch.empty(self.codes_BKSd.shape[:3], device=room.device)

    def write(self, start: int, heads_BTKd: Tensor) -> None:
        """Round into the slots from `start` on."""
        end = start + heads_BTKd.shape[1]
        codes_BTKd, scales_BTK1 = codes_by_token(heads_BTKd)
        self.codes_BKSd[:, :, start:end] = codes_BTKd.transpose(1, 2)
        self.scales_BKS[:, :, start:end] = scales_BTK1[..., 0].transpose(1, 2)

    def read(self, end: int) -> Codes:
        """Return the slots before `end`; valid until `select`."""
        return Codes(self.codes_BKSd[:, :, :end], self.scales_BKS[:, :, :end])

    def select(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        super().select(rows)
        self.scales_BKS = self.scales_BKS[rows]


class FixedBlock(CodeBlock):
    """Codes on scales that are the same for all tokens: float32 [K], or [1] for all heads."""

    def __init__(self, scales_K: Tensor, num_heads: int, dim: int, room: Room) -> None:
        super().__init__(num_heads, dim, room)
        self.scales_K1 = scales_K.float().to(room.device)[:, None]

    def write(self, start: int, heads_BTKd: Tensor) -> None:
        """Round into the slots from `start` on."""
        end = start + heads_BTKd.shape[1]
        codes_BTKd = codes_by_scale(heads_BTKd, self.scales_K1)
        self.codes_BKSd[:, :, start:end] = codes_BTKd.transpose(1, 2)

    def read(self, end: int) -> Codes:
        """Return the slots before `end`; valid until `select`."""
        return Codes(self.codes_BKSd[:, :, :end], self.scales_K1[None])


class RoundedStore:
    """Keys and values of one layer in 8 bits; see `danlu.nn.stores.Store`."""

    def __init__(self, keys: CodeBlock, values: CodeBlock, room: Room) -> None:
        self._keys = keys
        self._values = values
        self._dtype = room.dtype
        self._scratch = room.scratch

    def write(self, start: int, k_BTKd: Tensor, v_BTKd: Tensor) -> None:
        """Round into the slots from `start` on."""
        self._keys.write(start, k_BTKd)
        self._values.write(start, v_BTKd)

    def read(self, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, K, S, d] of the slots before `end`, dequantized."""
        keys, values = self._keys.read(end), self._values.read(end)
        return keys.dequantize(self._dtype), values.dequantize(self._dtype)

    def attend(self, q_BHTd: Tensor, end: int, scale: float, mask: Tensor | None) -> Tensor:
        """Return the values [B, H, T, d] that queries attend to in the slots before `end`."""
        keys, values = self._keys.read(end), self._values.read(end)
        return int8_attention(q_BHTd, keys, values, scale, mask, self._scratch)

    def select(self, rows: Tensor) -> None:
        """Keep only `rows`."""
        self._keys.select(rows)
        self._values.select(rows)


def codes_by_token(heads_BTKd: Tensor) -> tuple[Tensor, Tensor]:
    """Return codes (whole numbers in float32) and scales [B, T, K, 1] by each head's largest."""
    heads_BTKd = heads_BTKd.float()
    scales_BTK1 = heads_BTKd.abs().amax(-1, keepdim=True).div_(HIGH).clamp_(min=SMALLEST_SCALE)
    return (heads_BTKd / scales_BTK1).round_(), scales_BTK1


def codes_by_scale(heads_BTKd: Tensor, scales_K1: Tensor) -> Tensor:
    """Return codes (whole numbers in float32) on given scales."""
    return (heads_BTKd.float() / scales_K1).round_().clamp_(LOW, HIGH)

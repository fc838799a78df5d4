"""Weights whose codes name entries of a small table, with a scale for each block of weights.

Source: QLoRA (arXiv:2305.14314, sec. 3) as bitsandbytes lays it out: blocks are cut from the flat
weight, so where they do not divide the inputs, they run across rows.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Size, Tensor
from torch.nn import functional as F

from danlu.errors import QuantizationError
from danlu.quantize.weight import QuantizedWeight


class BlockScales(ABC):
    """One scale for each block."""

    @abstractmethod
    def at(self, blocks: Tensor) -> Tensor:
        """Return the float32 scales of blocks, in the shape of their numbers."""

    @abstractmethod
    def tensors(self) -> dict[str, Tensor]:
        """Return everything they consist of."""

    @abstractmethod
    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the scales of other `tensors`."""


@dataclass(frozen=True)
class PlainScales(BlockScales):
    """Scales as they are: float32 [blocks]."""

    values: Tensor

    def at(self, blocks: Tensor) -> Tensor:
        """Return the scales of blocks."""
        return self.values[blocks]

    def tensors(self) -> dict[str, Tensor]:
        """Return the scales."""
        return {"values": self.values}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return other scales."""
        return replace(self, **dict[str, Any](tensors))


@dataclass(frozen=True)
class DoubleScales(BlockScales):
    """Scales that are quantized themselves (arXiv:2305.14314, sec. 3, "double quantization").

    scale[b] = book[codes[b]] * absmax[b // block_size] + offset

    Attributes:
        codes: uint8 [blocks].
        book: float32 [256].
        absmax: float32 [blocks / block_size, rounded up].
        offset: float32 [], the mean of the scales.
        block_size: scales that share one `absmax`.
    """

    codes: Tensor
    book: Tensor
    absmax: Tensor
    offset: Tensor
    block_size: int

    def at(self, blocks: Tensor) -> Tensor:
        """Return the scales of blocks."""
        codes = self.codes.index_select(0, blocks.flatten()).int()
        entries = self.book.index_select(0, codes).view(blocks.shape)
        return entries * self.absmax[blocks // self.block_size] + self.offset

    def tensors(self) -> dict[str, Tensor]:
        """Return codes, book, absmax and offset."""
        names = ("codes", "book", "absmax", "offset")
        return {name: getattr(self, name) for name in names}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return other scales."""
        return replace(self, **dict[str, Any](tensors))


@dataclass(frozen=True)
class CodeBookWeight(QuantizedWeight):
    """w[o, i] = book[codes[o, i]] * scale[(starts[o] + i) // block_size].

    Attributes:
        packed: uint8 [out, ceil(in / 2)], two codes in a byte, the first in its high half.
        book: float32 [16].
        scales: of all blocks of the flat weight these rows were cut from.
        starts: int64 [out], where in that flat weight each row begins.
        block_size: weights that share a scale.
        num_inputs: in.
        number_dtype: dtype of the weight that was quantized.
        name: of the book.
    """

    packed: Tensor
    book: Tensor
    scales: BlockScales
    starts: Tensor
    block_size: int
    num_inputs: int
    number_dtype: torch.dtype
    name: str
    bits = 4

    @property
    def shape(self) -> Size:
        """[out, in]."""
        return Size((len(self.packed), self.num_inputs))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the weight that was quantized."""
        return self.number_dtype

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [out, in], computed in float32, in `dtype` (default: its own)."""
        entries_OI = _entries(self.packed, self.book)
        run = math.gcd(self.num_inputs, self.block_size)  # inputs that share a scale in every row
        offsets = torch.arange(0, self.num_inputs, run, device=self.starts.device)
        scales_OR = self.scales.at((self.starts[:, None] + offsets) // self.block_size)
        runs_ORr: Tensor = entries_OI[:, : self.num_inputs].unflatten(1, (-1, run))
        runs_ORr *= scales_OR[..., None]
        return runs_ORr.to(dtype or self.dtype).flatten(1)

    def rows(self, which: Tensor | slice) -> Self:
        """Return some outputs; they keep their places in the flat weight."""
        return replace(self, packed=self.packed[which], starts=self.starts[which])

    @classmethod
    def stacked(cls, parts: Sequence[Self]) -> Self:
        """Return the outputs of all parts, which must be cut from one flat weight."""
        first = parts[0]
        if any(not first._is_of_one_weight(part) for part in parts[1:]):
            raise QuantizationError(
                f"Layers whose {first.name} blocks were cut from different tensors do not fit into "
                "one: a block and its scales belong to the whole published tensor. Quantize the "
                "published tensor, or dequantize these layers."
            )
        return replace(
            first,
            packed=torch.cat([part.packed for part in parts]),
            starts=torch.cat([part.starts for part in parts]),
        )

    def _is_of_one_weight(self, other: "CodeBookWeight") -> bool:
        mine, theirs = self._shared(), other._shared()
        same = mine.keys() == theirs.keys() and self.block_size == other.block_size
        return same and all(torch.equal(mine[name], theirs[name]) for name in mine)

    def _shared(self) -> dict[str, Tensor]:
        return {"book": self.book, **self.scales.tensors()}

    def to(self, dtype: torch.dtype) -> Self:
        """Return the weight as numbers of another dtype; what it stands for does not change."""
        return replace(self, number_dtype=dtype)

    def tensors(self) -> dict[str, Tensor]:
        """Return packed codes, starts, book and what the scales consist of."""
        scales = {f"scale_{name}": tensor for name, tensor in self.scales.tensors().items()}
        return {"packed": self.packed, "starts": self.starts, "book": self.book, **scales}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the weight of other tensors."""
        scales = {
            name.removeprefix("scale_"): tensor
            for name, tensor in tensors.items()
            if name.startswith("scale_")
        }
        own: dict[str, Any] = {n: t for n, t in tensors.items() if not n.startswith("scale_")}
        return replace(self, scales=self.scales.with_tensors(scales), **own)


def _entries(packed_Ob: Tensor, book: Tensor) -> Tensor:
    """Return the entries [out, 2 * bytes] that bytes name, looked up pair by pair."""
    high, low = book[:, None].expand(-1, len(book)), book.expand(len(book), -1)
    pairs = torch.stack((high, low), dim=-1).float().view(torch.int64).flatten()
    words = pairs.index_select(0, packed_Ob.flatten().int())
    return words.view(torch.float32).view(len(packed_Ob), -1)


def pack_pairs(codes_OI: Tensor) -> Tensor:
    """Return uint8 codes below 16 as bytes [out, ceil(in / 2)], the first in the high half."""
    padded = F.pad(codes_OI, (0, codes_OI.shape[1] % 2))
    return (padded[:, ::2] << 4) | padded[:, 1::2]


def unpack_pairs(packed: Tensor, count: int) -> Tensor:
    """Return the uint8 codes [out, count] of bytes; the inverse of `pack_pairs`."""
    return torch.stack((packed >> 4, packed & 15), dim=-1).flatten(1)[:, :count]


def rows_of_pairs(flat: Tensor, outputs: int, inputs: int) -> Tensor:
    """Return the bytes [out, ceil(in / 2)] of codes whose bytes [out * in / 2] run across rows."""
    if inputs % 2 == 0:
        return flat.view(outputs, -1)
    return pack_pairs(unpack_pairs(flat[None], outputs * inputs).view(outputs, inputs))


def flat_pairs(packed: Tensor, inputs: int) -> Tensor:
    """Return bytes that run across rows; the inverse of `rows_of_pairs`."""
    if inputs % 2 == 0:
        return packed.flatten()
    return pack_pairs(unpack_pairs(packed, inputs).reshape(1, -1))[0]

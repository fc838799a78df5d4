"""Products with 4-bit groups by torch's tensor-core kernel (`aten::_weight_int4pack_mm`).

The kernel wants its codes in tiles whose order is its own business: it is found out by packing
known numbers, so that codes can be had back. It multiplies in bfloat16.
"""

import logging
from collections.abc import Hashable, Iterator
from functools import cache
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.config.quantize.scheme import KERNEL_GROUP_SIZES
from danlu.quantize.codebook import pack_pairs, unpack_pairs
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.operator import (
    ACCELERATOR_SLICE_WEIGHTS,
    Operator,
    as_integers,
    joined,
)

KERNEL_ROWS = 32  # more rows are faster with a dense weight
TILE_ROWS, TILE_INPUTS = 8, 16
INNER_TILES = (8, 4, 2)  # tiles of inputs that lie together, the best first
DIGITS = 3  # hexadecimal digits that number the places of a tile
ZERO = 8  # what the kernel takes for 0
CLOSE = 2e-2  # relative; bfloat16 rounds weights to 2^-9

logger = logging.getLogger(__name__)


class Int4Kernel(Hashable, Protocol):
    """Packs and multiplies."""

    def pack(self, bytes_OK: Tensor, inner_tiles: int) -> Tensor:
        """Return int32 [out / 8, in / (16 inner_tiles), ...] of uint8 [out, in / 2]."""

    def multiply(self, x: Tensor, packed: Tensor, group_size: int, scales_GO2: Tensor) -> Tensor:
        """Return x W^T with w = (q - 8) * scale + zero."""


class TorchKernel:
    """The kernel of torch."""

    def pack(self, bytes_OK: Tensor, inner_tiles: int) -> Tensor:
        """Return the kernel's own layout."""
        packed: Tensor = torch.ops.aten._convert_weight_to_int4pack(bytes_OK, inner_tiles)
        return packed

    def multiply(self, x: Tensor, packed: Tensor, group_size: int, scales_GO2: Tensor) -> Tensor:
        """Return the product in bfloat16."""
        product: Tensor = torch.ops.aten._weight_int4pack_mm(x, packed, group_size, scales_GO2)
        return product


TORCH_KERNEL = TorchKernel()


class Int4TileOperator(Operator):
    """Int4 in groups, in the layout of the tensor-core kernel.

    Args:
        weight: for which `fits` holds.
        kernel: that packs and multiplies.
    """

    label = "int4 tensor-core kernel (dense product for prefill)"

    def __init__(self, weight: IntegerGrid, kernel: Int4Kernel = TORCH_KERNEL) -> None:
        super().__init__()
        self._kernel = kernel
        self._dtype = weight.dtype
        self.group_size = weight.group_size
        self.has_zeros = weight.zero_points is not None
        self.inner_tiles = _inner_tiles(weight.shape[1])
        packed = kernel.pack(pack_pairs((weight.codes + ZERO).to(torch.uint8)), self.inner_tiles)
        self.register_buffer("packed", packed)
        self.register_buffer("scale_bits_GO2", as_integers(_scales_and_zeros(weight)))
        self.packed: Tensor
        self.scale_bits_GO2: Tensor

    @staticmethod
    def fits(weight: IntegerGrid) -> bool:
        """Return whether the layout can hold the weight, wherever it is."""
        outputs, inputs = weight.shape
        whole = outputs % TILE_ROWS == 0 and inputs % (TILE_INPUTS * min(INNER_TILES)) == 0
        regular = weight.groups is None and weight.group_size in KERNEL_GROUP_SIZES
        return whole and regular and weight.bits == 4

    @property
    def scales_GO2(self) -> Tensor:
        """Scale and zero of each group and output."""
        return self.scale_bits_GO2.view(self._dtype)

    def multiply(self, x: Tensor) -> Tensor:
        """Return x W^T; few rows in bfloat16 by the kernel."""
        if x.shape[0] <= KERNEL_ROWS and x.dtype == torch.bfloat16:
            scales = self.scales_GO2.to(x.dtype)
            return self._kernel.multiply(x, self.packed, self.group_size, scales)
        return joined([F.linear(x, part.dequantize(x.dtype)) for part in self.parts()])

    def quantized(self) -> IntegerGrid:
        """Return the weight as codes, scales and zero points."""
        return self._grid(self.packed, self.scales_GO2)

    def parts(self) -> Iterator[IntegerGrid]:
        """Yield the weight as consecutive outputs, unpacked one part at a time."""
        inputs = self.group_size * len(self.scale_bits_GO2)
        tiles = max(1, ACCELERATOR_SLICE_WEIGHTS // (inputs * TILE_ROWS))
        scales = self.scales_GO2.split(tiles * TILE_ROWS, dim=1)
        for part in zip(self.packed.split(tiles), scales, strict=True):
            yield self._grid(*part)

    def _grid(self, packed: Tensor, scales_GO2: Tensor) -> IntegerGrid:
        places = _places(self._kernel, packed.device, self.inner_tiles)
        tiles = _nibbles(packed)[..., places].unflatten(-1, (TILE_ROWS, -1))
        codes = tiles.transpose(1, 2).flatten(0, 1).flatten(1).to(torch.int8) - ZERO
        scales, zeros = (part.t().contiguous() for part in scales_GO2.unbind(-1))
        points = (-zeros.float() / scales.float()).round_().to(torch.int8)
        return IntegerGrid(codes, scales, points if self.has_zeros else None, bits=4)


def _scales_and_zeros(weight: IntegerGrid) -> Tensor:
    """Return [G, out, 2]: scales, and what is added to a weight of code 0."""
    zeros = torch.zeros_like(weight.scales)
    if weight.zero_points is not None:
        zeros = -(weight.zero_points.float() * weight.scales.float()).to(weight.scales.dtype)
    return torch.stack((weight.scales.t(), zeros.t()), dim=-1).contiguous()


def _inner_tiles(inputs: int) -> int:
    return next(count for count in INNER_TILES if inputs % (TILE_INPUTS * count) == 0)


def _nibbles(packed: Tensor) -> Tensor:
    """Return what each tile [out / 8, in / (16 inner tiles), ...] holds, in its own order."""
    pairs = packed.flatten(2).view(torch.uint8)
    nibbles: Tensor = unpack_pairs(pairs.flatten(0, 1), 2 * pairs.shape[-1])
    return nibbles.unflatten(0, pairs.shape[:2])  # type: ignore[no-any-return]


@cache
def _places(kernel: Int4Kernel, device: torch.device, inner_tiles: int) -> Tensor:
    """Return where in a tile each of its [8, 16 inner_tiles] codes lies, row after row."""
    numbers = torch.arange(TILE_ROWS * TILE_INPUTS * inner_tiles, device=device)
    found = torch.zeros_like(numbers)
    for digit in range(DIGITS):
        digits = ((numbers >> 4 * digit) & 15).to(torch.uint8).view(TILE_ROWS, -1)
        packed = kernel.pack(pack_pairs(digits), inner_tiles)
        found += _nibbles(packed).flatten().long() << 4 * digit
    return found.argsort()


@cache
def int4_kernel_works(device: torch.device, kernel: Int4Kernel = TORCH_KERNEL) -> bool:
    """Return whether the kernel is there and gives the numbers that it should, tried once."""
    generator = torch.Generator().manual_seed(0)
    codes = torch.randint(-8, 8, (64, 256), generator=generator, dtype=torch.int8)
    scales = torch.rand(64, 8, generator=generator).add_(0.5).to(torch.bfloat16)
    grid = IntegerGrid(codes.to(device), scales.to(device), None, bits=4)
    x = torch.randn(3, 256, generator=generator).to(device, torch.bfloat16)
    wanted = x.float() @ grid.dequantize(torch.float32).t()
    try:
        operator = Int4TileOperator(grid, kernel)
        found, back = operator.multiply(x), operator.quantized()
    except (RuntimeError, NotImplementedError) as error:
        logger.info("torch's int4 kernel does not run here: %s", error)
        return False
    close = float((found.float() - wanted).norm()) <= CLOSE * float(wanted.norm())
    return close and torch.equal(back.codes, grid.codes)

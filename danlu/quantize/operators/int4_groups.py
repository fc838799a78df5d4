"""int4 weights in groups, on the CPU."""

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

from danlu.config.quantize.scheme import KERNEL_GROUP_SIZES
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.operator import DENSE_ROWS, SLICE_WEIGHTS, Operator, as_integers

LOW_HALVES = 0x0F0F0F0F0F0F0F0F  # of eight bytes, two codes each
INT4_ROWS = 64  # outputs must be a multiple of this for the packed 4-bit layout


class Int4GroupOperator(Operator):
    """Int4 in groups, packed for `aten::_weight_int4pack_mm_for_cpu`.

    The kernel computes w = (q - 8) * scale + zero with q = code + 8 and zero = -zero point * scale.
    """

    label = "int4 weight-only kernel (dense product for prefill)"

    def __init__(self, weight: IntegerGrid) -> None:
        super().__init__()
        zeros = torch.zeros_like(weight.scales)
        if weight.zero_points is not None:
            zeros = -(weight.zero_points.float() * weight.scales.float()).to(weight.scales.dtype)
        self.has_zeros = weight.zero_points is not None
        scales_GO2 = torch.stack((weight.scales.t(), zeros.t()), dim=-1).contiguous()
        # Packed in slices: the packing wants 32 bits for each code.
        rows = max(1, SLICE_WEIGHTS // weight.codes.shape[1] // INT4_ROWS) * INT4_ROWS
        packed = [_packed(codes.to(torch.int32) + 8) for codes in weight.codes.split(rows)]
        self._dtype = weight.dtype
        self.register_buffer("packed", torch.cat(packed))
        self.register_buffer("scale_bits_GO2", as_integers(scales_GO2))
        self.group_size = weight.group_size
        self.packed: Tensor
        self.scale_bits_GO2: Tensor

    @staticmethod
    def fits(weight: IntegerGrid) -> bool:
        """Return whether this operator can hold the weight."""
        sizes = weight.group_size in KERNEL_GROUP_SIZES and weight.codes.shape[0] % INT4_ROWS == 0
        on_cpu = weight.codes.device.type == "cpu" and int4_layout() is not None
        return sizes and weight.bits == 4 and on_cpu

    @property
    def scales_GO2(self) -> Tensor:
        """Scale and zero of each group and output."""
        return self.scale_bits_GO2.view(self._dtype)

    def multiply(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        scales = self.scales_GO2.to(x.dtype)
        if x.shape[0] < DENSE_ROWS:
            product: Tensor = torch.ops.aten._weight_int4pack_mm_for_cpu(
                x, self.packed, self.group_size, scales
            )
            return product
        out = x.new_empty(x.shape[0], scales.shape[1])
        for part, rows in self._slices():
            torch.mm(x, self._dense(part, scales[:, rows]), out=out[:, rows])
        return out

    def _slices(self) -> Iterator[tuple[Tensor, slice]]:
        """Yield tiles of bytes [tile, in, bytes] and the outputs they hold."""
        tiles, (rows, _) = self._tiles_at_once(), _layout()
        for start, part in enumerate(self._codes_TKn().split(tiles)):
            yield part, slice(start * tiles * rows, (start * tiles + len(part)) * rows)

    def _tiles_at_once(self) -> int:
        return max(1, SLICE_WEIGHTS // (2 * self.packed.shape[1] * INT4_ROWS))

    def _codes_TKn(self) -> Tensor:
        """Return the packed bytes as tiles of rows: [tile, in, bytes]."""
        outputs, inputs = self.scale_bits_GO2.shape[1], 2 * self.packed.shape[1]
        rows, _ = _layout()
        return self.packed.view(outputs // rows, inputs, rows // 2)

    def _dense(self, bytes_TKn: Tensor, scales_GO2: Tensor) -> Tensor:
        """Return some outputs of the transposed weight [in, out] in the dtype of the scales."""
        scale_GO, zero_GO = (part.contiguous() for part in scales_GO2.unbind(-1))
        codes_IO = self._unpack(bytes_TKn.transpose(0, 1)).flatten(1)
        codes_GgO = codes_IO.unflatten(0, (len(scale_GO), -1))
        codes_GgO -= (_points(scale_GO, zero_GO) + 8)[:, None] if self.has_zeros else 8
        dense_GgO: Tensor = codes_GgO.to(scale_GO.dtype).mul_(scale_GO[:, None])
        return dense_GgO.flatten(0, 1)

    def _unpack(self, packed: Tensor) -> Tensor:
        """Return the codes, from 0 to 15, of packed bytes [..., bytes] as int8 [..., rows]."""
        _, order = _layout()
        words = packed.contiguous().view(torch.int64)  # eight bytes at a time
        low, high = words & LOW_HALVES, words >> 4 & LOW_HALVES
        codes = torch.cat((low.view(torch.int8), high.view(torch.int8)), dim=-1)
        return codes if order is None else codes[..., order]

    def quantized(self) -> IntegerGrid:
        """Return the weight as codes, scales and zero points, unpacked."""
        return self._grid(self._codes_TKn(), self.scales_GO2)

    def parts(self) -> Iterator[IntegerGrid]:
        """Yield the weight as consecutive outputs, unpacked one part at a time."""
        for part, rows in self._slices():
            yield self._grid(part, self.scales_GO2[:, rows])

    def _grid(self, bytes_TKn: Tensor, scales_GO2: Tensor) -> IntegerGrid:
        codes = (self._unpack(bytes_TKn) - 8).transpose(1, 2).flatten(0, 1).contiguous()
        scales, zeros = (part.t().contiguous() for part in scales_GO2.unbind(-1))
        return IntegerGrid(codes, scales, _points(scales, zeros) if self.has_zeros else None, 4)


def _layout() -> tuple[int, Tensor | None]:
    layout = int4_layout()
    assert layout is not None
    return layout


@cache
def int4_layout() -> tuple[int, Tensor | None] | None:
    """Return how the 4-bit kernel lays rows out on this processor, found by packing known numbers.

    Returns:
        (rows of a tile, order): the low halves of a tile's bytes and then their high halves are
        rows; `order` sorts them, None if they are sorted. None: the layout is unknown.
    """
    rows, inputs = torch.arange(INT4_ROWS, dtype=torch.int32), torch.arange(2, dtype=torch.int32)
    low = _packed_bytes((rows & 15)[:, None].expand(-1, 2))
    high = _packed_bytes((rows >> 4)[:, None].expand(-1, 2))
    column = _packed_bytes(inputs.expand(INT4_ROWS, -1)) & 15
    for tile in (64, 32, 16):
        expected = torch.arange(2).repeat_interleave(tile // 2).repeat(INT4_ROWS // tile)
        if torch.equal(column.long(), expected):
            first = (low[: tile // 2].long(), high[: tile // 2].long())
            row = torch.cat([(a & 15) + 16 * (b & 15) for a, b in [first]])
            row = torch.cat([row, (first[0] >> 4) + 16 * (first[1] >> 4)])
            order = row.argsort()
            return tile, None if torch.equal(order, torch.arange(tile)) else order
    return None


def _points(scales: Tensor, zeros: Tensor) -> Tensor:
    """Return zero points, int8, of zero = -point * scale."""
    return (-zeros.float() / scales.float()).round_().to(torch.int8)


def _packed(codes: Tensor) -> Tensor:
    packed: Tensor = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes.contiguous(), 1)
    return packed


def _packed_bytes(codes: Tensor) -> Tensor:
    return _packed(codes).flatten()

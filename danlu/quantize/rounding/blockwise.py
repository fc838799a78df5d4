"""Round to the nearest entry of a code book, block by block, as bitsandbytes does."""

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.config.quantize.scheme import QuantScheme
from danlu.errors import QuantizationError
from danlu.quantize.books import code_book, dynamic_map
from danlu.quantize.codebook import (
    BlockScales,
    CodeBookWeight,
    DoubleScales,
    PlainScales,
    pack_pairs,
)

SLICE_WEIGHTS = 2**19  # weights in float32 at a time
SMALLEST_SCALE = 1e-38  # divides blocks of zeros


def quantize_blockwise(
    weight_OI: Tensor, scheme: QuantScheme, name: str = "weight"
) -> CodeBookWeight:
    """Return the weight in the codes of NF4 or FP4.

    Args:
        weight_OI: the dense weight [out, in].
        scheme: the book, the size of a block, and how the scales are stored.
        name: of the tensor, for errors.

    Raises:
        QuantizationError: if a weight is not finite.
    """
    assert scheme.block_size is not None
    outputs, inputs = weight_OI.shape
    book = code_book(scheme.method).to(weight_OI.device)
    codes, scales = nearest_codes(weight_OI.flatten(), book, scheme.block_size)
    if not bool(torch.isfinite(scales).all()):
        raise QuantizationError(f"{name} holds values that are not finite; check the checkpoint.")
    return CodeBookWeight(
        packed=pack_pairs(codes.view(outputs, inputs)),
        book=book,
        scales=_double(scales, scheme) if scheme.double_quant else PlainScales(scales),
        starts=torch.arange(outputs, device=weight_OI.device) * inputs,
        block_size=scheme.block_size,
        num_inputs=inputs,
        number_dtype=weight_OI.dtype,
        name=scheme.method,
    )


def _double(scales: Tensor, scheme: QuantScheme) -> BlockScales:
    assert scheme.double_quant_block_size is not None
    offset, book = scales.mean(), dynamic_map().to(scales.device)
    codes, absmax = nearest_codes(scales - offset, book, scheme.double_quant_block_size)
    return DoubleScales(codes, book, absmax, offset, scheme.double_quant_block_size)


def nearest_codes(flat: Tensor, book: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    """Return uint8 codes [n] and the float32 largest magnitude of each block [n / block_size].

    A number halfway between two entries takes the lower one.

    Args:
        flat: numbers [n]; the last block may be short.
        book: entries within [-1, 1], in any order.
        block_size: numbers that share a scale.
    """
    order = book.argsort(stable=True)
    edges = (book[order[:-1]] + book[order[1:]]) / 2
    codes, scales = [], []
    for part in flat.split(max(1, SLICE_WEIGHTS // block_size) * block_size):
        blocks = F.pad(part.float(), (0, -len(part) % block_size)).view(-1, block_size)
        largest = blocks.abs().amax(1)
        scaled = (blocks * (1 / largest.clamp(min=SMALLEST_SCALE))[:, None]).clamp_(-1, 1)
        nearest = torch.bucketize(scaled.flatten()[: len(part)], edges, out_int32=True)
        codes.append(order.to(torch.uint8).index_select(0, nearest))
        scales.append(largest)
    return torch.cat(codes), torch.cat(scales)

"""Products with a quantized weight, by the fastest operator that weight and device allow.

Few rows (decoding) go to torch's weight-only kernels, which read the codes directly. From
`DENSE_ROWS` rows on (prefill, training) those kernels lose to a dense product, so the weight is
dequantized slice by slice, in the cache, and multiplied as usual.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.quantize.weight import QuantizedWeight

DENSE_ROWS = 16
SLICE_WEIGHTS = 2**21  # weights dequantized at a time
FLOAT_SLICE_WEIGHTS = 2**19  # likewise, where that goes through float32
ACCELERATOR_SLICE_WEIGHTS = 2**25  # large products keep an accelerator busy
INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # by bytes


class Operator(nn.Module, ABC):
    """Multiplies by a quantized weight kept in its own layout.

    Numbers that are not integers are kept as the integers of the same bits: casting the model to
    another dtype leaves the weight as it is, and what is written is what was read.

    Attributes:
        label: what reports call it.
    """

    label: str

    @abstractmethod
    def multiply(self, x: Tensor) -> Tensor:
        """Return x W^T for x [M, in], without gradients."""

    @abstractmethod
    def quantized(self) -> QuantizedWeight:
        """Return the weight as codes, scales and whatever else it consists of."""

    def parts(self) -> Iterator[QuantizedWeight]:
        """Yield the weight as consecutive outputs, each part small enough to be dequantized."""
        weight = self.quantized()
        on_cpu = next(self.buffers()).device.type == "cpu"
        yield from weight.slices(FLOAT_SLICE_WEIGHTS if on_cpu else ACCELERATOR_SLICE_WEIGHTS)


class DequantizeOperator(Operator):
    """Any weight on any device: dequantize, then multiply."""

    label = "dequantize + dense product"

    def __init__(self, weight: QuantizedWeight) -> None:
        super().__init__()
        self._plan = weight.with_tensors(
            {name: torch.empty(0, device="meta") for name in weight.tensors()}
        )
        self._dtypes = {name: tensor.dtype for name, tensor in weight.tensors().items()}
        for name, tensor in weight.tensors().items():
            self.register_buffer(name, as_integers(tensor))

    def multiply(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        return joined([F.linear(x, part.dequantize(x.dtype)) for part in self.parts()])

    def quantized(self) -> QuantizedWeight:
        """Return the weight as it was given."""
        return self._plan.with_tensors(
            {name: self.get_buffer(name).view(dtype) for name, dtype in self._dtypes.items()}
        )


def joined(products: Sequence[Tensor]) -> Tensor:
    """Return the outputs [..., out] of consecutive parts of a weight."""
    return products[0] if len(products) == 1 else torch.cat(list(products), dim=-1)


def as_integers(tensor: Tensor) -> Tensor:
    """Return floating-point numbers as the integers of the same bits; integers as they are."""
    if not tensor.is_floating_point():
        return tensor
    return tensor.contiguous().view(INTEGERS[tensor.element_size()])

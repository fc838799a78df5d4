"""Products with rounded inputs: of integers where weight and device allow.

An integer product is exact in int32 (`torch._int_mm`); the scales of tokens and outputs come after
it. On the CPU one kernel serves decoding and prefill: it reads the codes as they are, and with one
row it is a matrix-vector product. Elsewhere what the integers stand for is multiplied.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.quantize.activations import ExactColumns, InputCodes, InputRounding, IntegerInputs
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.choosing import choose_operator
from danlu.quantize.operators.operator import Operator, as_integers
from danlu.quantize.weight import QuantizedWeight

MAX_INPUTS = 2**31 // 2**14 - 1  # a product of two codes is up to 2^14, and int32 holds their sum
SLICE_PRODUCTS = 2**22  # sums in int32 and float32 at a time
CUDA_ROWS = 17  # the kernel there wants so many rows at least,
CUDA_MULTIPLE = 8  # and inputs and outputs in multiples of this


class RoundingOperator(Operator, ABC):
    """Rounds inputs, then multiplies by a quantized weight."""

    @abstractmethod
    def inputs(self) -> InputRounding:
        """Return how inputs are rounded."""


class EmulatingOperator(RoundingOperator):
    """Any weight and any rounding on any device: multiplies what the rounded inputs stand for."""

    def __init__(self, weight: QuantizedWeight, inputs: InputRounding) -> None:
        super().__init__()
        self.product = choose_operator(weight)
        self.rounding = HeldRounding(inputs)
        self.label = f"rounded inputs, {self.product.label}"

    def inputs(self) -> InputRounding:
        """Return how inputs are rounded."""
        return self.rounding.get()

    def multiply(self, x: Tensor) -> Tensor:
        """Return the product of the rounded inputs."""
        return self.product.multiply(self.inputs().rounded(x))

    def quantized(self) -> QuantizedWeight:
        """Return the weight as it was given."""
        return self.product.quantized()

    def parts(self) -> Iterator[QuantizedWeight]:
        """Yield the weight as the product does."""
        return self.product.parts()


class Int8Operator(RoundingOperator):
    """8-bit inputs by symmetric integers with one scale for each output (`torch._int_mm`)."""

    label = "int8 product (inputs rounded)"

    def __init__(self, weight: IntegerGrid, inputs: IntegerInputs) -> None:
        super().__init__()
        self.rounding = HeldRounding(inputs)
        self._dtype, self._bits = weight.dtype, weight.bits
        self.register_buffer("weight_codes", weight.codes.contiguous())
        self.register_buffer("scale_bits", as_integers(weight.scales.flatten()))
        self.register_buffer("code_sums", weight.codes.sum(1, dtype=torch.int32))
        self.weight_codes: Tensor
        self.scale_bits: Tensor
        self.code_sums: Tensor

    @staticmethod
    def fits(weight: IntegerGrid) -> bool:
        """Return whether this operator can hold the weight, on the device it is on."""
        plain = weight.zero_points is None and weight.groups is None and weight.whole_rows
        outputs, inputs = weight.shape
        device = weight.codes.device.type
        multiples = outputs % CUDA_MULTIPLE == 0 and inputs % CUDA_MULTIPLE == 0
        runs = device == "cpu" or (device == "cuda" and multiples)
        return plain and runs and inputs <= MAX_INPUTS

    @property
    def scales(self) -> Tensor:
        """One for each output."""
        return self.scale_bits.view(self._dtype)

    def inputs(self) -> InputRounding:
        """Return how inputs are rounded."""
        return self.rounding.get()

    def multiply(self, x: Tensor) -> Tensor:
        """Return the product of the rounded inputs, exact but for its scales."""
        inputs = self.rounding.get()
        assert isinstance(inputs, IntegerInputs)
        codes = inputs.codes(x)
        at_once = max(1, SLICE_PRODUCTS // len(self.weight_codes))
        parts = [self._scaled(part, x.dtype) for part in codes.split(at_once)]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _scaled(self, x: InputCodes, dtype: torch.dtype) -> Tensor:
        """Return the product of some rows in `dtype`."""
        sums = int8_product(x.codes, self.weight_codes).float()
        if x.zero_points is not None:
            sums -= x.zero_points * self.code_sums
        sums.mul_(x.scales).mul_(self.scales)
        if x.exact is not None:
            sums += self._exact(x.exact)
        return sums.to(dtype)

    def _exact(self, columns: ExactColumns) -> Tensor:
        """Return what the columns that are not rounded add."""
        weight = self.weight_codes[:, columns.which].float() * self.scales[:, None]
        return F.linear(columns.inputs, weight)

    def quantized(self) -> IntegerGrid:
        """Return the weight as codes and scales."""
        return IntegerGrid(self.weight_codes, self.scales[:, None], None, self._bits)


class HeldRounding(nn.Module):
    """Keeps the tensors of a rounding where the model is, untouched where it is cast."""

    def __init__(self, inputs: InputRounding) -> None:
        super().__init__()
        self._plan = inputs
        self._dtypes = {name: tensor.dtype for name, tensor in inputs.tensors().items()}
        for name, tensor in inputs.tensors().items():
            self.register_buffer(name, as_integers(tensor))

    def get(self) -> InputRounding:
        """Return the rounding as it was given."""
        return self._plan.with_tensors(
            {name: self.get_buffer(name).view(dtype) for name, dtype in self._dtypes.items()}
        )


def choose_rounding_operator(weight: QuantizedWeight, inputs: InputRounding) -> RoundingOperator:
    """Return the fastest operator that fits weight, rounding and device."""
    if (
        isinstance(weight, IntegerGrid)
        and isinstance(inputs, IntegerInputs)
        and Int8Operator.fits(weight)
    ):
        return Int8Operator(weight, inputs)
    return EmulatingOperator(weight, inputs)


def int8_product(codes_MI: Tensor, weight_OI: Tensor) -> Tensor:
    """Return codes W^T [M, out] in int32, of int8 codes; exact."""
    rows = len(codes_MI)
    if codes_MI.device.type == "cuda" and rows < CUDA_ROWS:
        codes_MI = F.pad(codes_MI, (0, 0, 0, CUDA_ROWS - rows))
    return torch._int_mm(codes_MI, weight_OI.t())[:rows]

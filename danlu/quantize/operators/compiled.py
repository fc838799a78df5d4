"""Products that torch compiles, so that dequantization and product are one kernel on accelerators.

A few rows (decoding) are a reduction over codes that are read once and never written back dense.
More rows are an ordinary product with slices that one compiled kernel dequantizes. Where torch
cannot compile (no Triton, an old device), the same formulas run as they are.
"""

import logging
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.quantize.grid import IntegerGrid
from danlu.quantize.operators.fusible import Dense, Tensors, dense_function
from danlu.quantize.operators.nibbles import NibbleGrid
from danlu.quantize.operators.operator import ACCELERATOR_SLICE_WEIGHTS, DequantizeOperator, joined
from danlu.quantize.weight import QuantizedWeight

FEW_ROWS = 4  # each reads all codes; beyond that a dense product is faster
NIBBLE_BITS = 4
Compiler = Callable[[Callable[..., Tensor]], Callable[..., Tensor]]

logger = logging.getLogger(__name__)


class CompactOperator(DequantizeOperator):
    """Any weight that has a dense function; up to 4 bits are kept two codes in a byte.

    Args:
        weight: for which `fits` holds.
        compiler: makes a function fast; None: functions run as they are.
    """

    def __init__(self, weight: QuantizedWeight, compiler: Compiler | None) -> None:
        stored = _halved(weight)
        super().__init__(stored)
        dense = dense_function(stored)
        assert dense is not None
        self._few = compiler(few_rows(dense)) if compiler else None
        self._dense = compiler(dense) if compiler else dense
        if compiler:
            self.label = "compiled dequantization (dense product for prefill)"

    @staticmethod
    def fits(weight: QuantizedWeight) -> bool:
        """Return whether there is a function to compile."""
        return dense_function(weight) is not None

    def multiply(self, x: Tensor) -> Tensor:
        """Return x W^T."""
        stored = self.stored()
        if self._few is not None and x.shape[0] <= FEW_ROWS:
            return self._few(x, stored.tensors())
        parts = stored.slices(ACCELERATOR_SLICE_WEIGHTS)
        return joined([F.linear(x, self._dense(part.tensors(), x.dtype)) for part in parts])

    def stored(self) -> QuantizedWeight:
        """Return the weight as it is kept."""
        return super().quantized()

    def quantized(self) -> QuantizedWeight:
        """Return the weight as it was given."""
        stored = self.stored()
        return stored.grid() if isinstance(stored, NibbleGrid) else stored


def _halved(weight: QuantizedWeight) -> QuantizedWeight:
    """Return integers of up to 4 bits as nibbles, other weights as they are."""
    if not isinstance(weight, IntegerGrid) or weight.bits > NIBBLE_BITS or weight.shape[1] % 2:
        return weight
    return NibbleGrid.of(weight)


@cache
def few_rows(dense: Dense) -> Callable[[Tensor, Tensors], Tensor]:
    """Return the product of a few rows with the weight that `dense` computes, as one reduction."""

    def product(x_MI: Tensor, tensors: Tensors) -> Tensor:
        terms_MOI = x_MI.float()[:, None] * dense(tensors, torch.float32)
        return terms_MOI.sum(-1).to(x_MI.dtype)

    return product


@cache
def compiled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a function of tensors of any size, compiled when it is first called."""
    made: Callable[..., Tensor] = torch.compile(function, dynamic=True, fullgraph=True)
    return made


@cache
def can_compile(device: torch.device) -> bool:
    """Return whether torch compiles for an accelerator: found by compiling a sum."""
    if find_spec("triton") is None:
        return False
    ones = torch.ones(4, 64, device=device)
    try:
        found = torch.compile(lambda x: (x * 2).sum(-1))(ones)
    except RuntimeError as error:
        logger.warning("torch.compile does not work here, products are slower: %s", error)
        return False
    return torch.equal(found, ones.sum(-1) * 2)

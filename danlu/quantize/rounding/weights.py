"""A dense weight becomes a quantized one, by whatever method a scheme names."""

from collections.abc import Callable

from torch import Tensor

from danlu.config.quantize.scheme import QuantScheme
from danlu.quantize.activations import DynamicPerToken, InputRounding
from danlu.quantize.outliers import OutlierColumns, quantize_int8_rows
from danlu.quantize.rounding.blockwise import quantize_blockwise
from danlu.quantize.rounding.rtn import quantize_rtn
from danlu.quantize.weight import QuantizedWeight

METHODS: dict[str, Callable[[Tensor, QuantScheme, str], QuantizedWeight]] = {
    "rtn": quantize_rtn,
    "nf4": quantize_blockwise,
    "fp4": quantize_blockwise,
    "llm_int8": lambda weight_OI, scheme, name: quantize_int8_rows(weight_OI, name),
}


def quantize_weight(weight_OI: Tensor, scheme: QuantScheme, name: str) -> QuantizedWeight:
    """Return the weight rounded as `scheme` says.

    Args:
        weight_OI: the dense weight [out, in].
        scheme: how.
        name: of the tensor, for errors.

    Raises:
        QuantizationError: if the weight does not fit the scheme, or is not finite.
    """
    return METHODS[scheme.method](weight_OI, scheme, name)


def input_rounding(scheme: QuantScheme) -> InputRounding | None:
    """Return how a scheme rounds what enters a layer; None: not at all."""
    if scheme.threshold is not None:
        return OutlierColumns(scheme.threshold)
    return DynamicPerToken() if scheme.activations else None

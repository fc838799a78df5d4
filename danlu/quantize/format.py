"""What a format of quantized checkpoints answers, and how the right one is found."""

import importlib
import pkgutil
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Protocol

from torch import Tensor

from danlu.errors import QuantizationError
from danlu.quantize.weight import QuantizedWeight


class QuantFormat(Protocol):
    """Reads and writes the tensors of one published format.

    Attributes:
        required: the tensors that every quantized layer has, whatever the config.
    """

    required: Sequence[str]

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether a `quantization_config` is of this format."""

    def tensors(self, config: Mapping[str, Any]) -> Sequence[str]:
        """Return the names of the tensors that stand for one weight.

        Raises:
            QuantizationError: if the config asks for something that is not supported.
        """

    def decode(self, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> QuantizedWeight:
        """Return the weight held by the tensors of one layer."""

    def encode(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """Return the tensors of one layer; the inverse of `decode`."""

    def config(
        self, weights: Mapping[str, QuantizedWeight], unquantized: Sequence[str]
    ) -> dict[str, Any]:
        """Return the `quantization_config` of a model.

        Args:
            weights: quantized weights by module name.
            unquantized: linear layers left as they are.
        """


@cache
def formats() -> dict[str, QuantFormat]:
    """Return every format by its file name in `danlu/quantize/formats`."""
    package = importlib.import_module("danlu.quantize.formats")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"{package.__name__}.{name}").FORMAT for name in names}


def find_format(config: Mapping[str, Any]) -> QuantFormat:
    """Return the format of a `quantization_config`.

    Raises:
        QuantizationError: if no format claims it.
    """
    for candidate in formats().values():
        if candidate.claims(config):
            return candidate
    raise QuantizationError(
        f"The checkpoint is quantized as {config.get('quant_method')!r}, which is not read yet. "
        f"Known formats: {', '.join(formats())}. Use the unquantized checkpoint instead."
    )

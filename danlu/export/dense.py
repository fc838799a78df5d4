"""Every parameter of a decoder as a dense tensor, whatever its layers have become."""

from collections.abc import Iterator, Mapping
from copy import deepcopy

import torch
from torch import Tensor

from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear, LinearLike


class DenseState(Mapping[str, Tensor]):
    """Our parameter names with their tensors, each made when it is asked for and not kept.

    A plain weight is the parameter itself. A linear layer that is not plain (quantized, or a head
    that normalises) gives the weight it multiplies by, in float32. A tied head is not listed.

    Args:
        decoder: without adapters.
    """

    def __init__(self, decoder: Decoder) -> None:
        self._parameters = dict(decoder.named_parameters())
        self._linears: dict[str, LinearLike] = {}
        for name, linear in decoder.linears():
            if type(linear) is not Linear:
                self._linears[f"{name}.weight"] = linear
                self._parameters.pop(f"{name}.weight", None)

    def __getitem__(self, name: str) -> Tensor:
        """Return one parameter."""
        if name not in self._linears:
            return self._parameters[name].detach()
        with torch.no_grad():
            return deepcopy(self._linears[name]).float().dense_weight().detach()

    def __iter__(self) -> Iterator[str]:
        """Yield the names."""
        yield from self._parameters
        yield from self._linears

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._parameters) + len(self._linears)

"""What is kept of the inputs of a layer: a sample of them, and their second moment."""

from collections.abc import Callable

import torch
from torch import Tensor

from danlu.calibration.method import LayerInputs
from danlu.quantize.rounding.curvature import SecondMoment

SAMPLE_ROWS = 1024


class RowSample:
    """Rows spread evenly over all that come, in their order: from `limit` to twice as many."""

    def __init__(self, limit: int = SAMPLE_ROWS) -> None:
        self._limit = limit
        self._stride = 1
        self._seen = 0
        self._kept: list[Tensor] = []

    def add(self, x_NI: Tensor) -> None:
        """Take some of these rows."""
        first = -self._seen % self._stride
        self._seen += len(x_NI)
        self._kept.append(x_NI[first :: self._stride].clone())
        while sum(map(len, self._kept)) > 2 * self._limit:
            self._kept = [torch.cat(self._kept)[::2].clone()]
            self._stride *= 2

    def rows(self) -> Tensor:
        """Return the sample [rows, in]."""
        return torch.cat(self._kept)


class Statistics:
    """The inputs of one layer, or of several that get the same.

    Args:
        in_features: of the layer.
        device: where it is.
        moments: whether the second moment is wanted.
    """

    def __init__(self, in_features: int, device: torch.device, *, moments: bool) -> None:
        self._sample = RowSample()
        self._sample.add(torch.zeros(0, in_features, device=device))
        self._count = 0
        self._moment = SecondMoment(in_features, device) if moments else None

    def add(self, x_NI: Tensor) -> None:
        """Take inputs into account."""
        x_NI = x_NI.float()
        self._sample.add(x_NI)
        self._count += len(x_NI)
        if self._moment is not None:
            self._moment.add(x_NI)

    def summary(self) -> LayerInputs:
        """Return what was seen; nobody may add to it afterwards."""
        moment_II = None if self._moment is None else self._moment.mean()
        return LayerInputs(self._sample.rows(), moment_II, self._count)


class Gathering:
    """Hears what enters layers; layers that hear the very same tensor share their statistics.

    Args:
        make: makes the statistics of a layer called by name.
    """

    def __init__(self, make: Callable[[str], Statistics]) -> None:
        self._make = make
        self._of: dict[str, Statistics] = {}
        self._last: tuple[Tensor, Statistics] | None = None

    def hear(self, name: str, x_NI: Tensor) -> None:
        """Take what enters a layer; neighbours with one input are told one after the other."""
        if self._last is not None and self._last[0] is x_NI:
            shared = self._of.setdefault(name, self._last[1])
            if shared is self._last[1]:
                return
        if name not in self._of:
            self._of[name] = self._make(name)
        self._of[name].add(x_NI)
        self._last = (x_NI, self._of[name])

    def summaries(self, names: list[str]) -> dict[str, LayerInputs]:
        """Return the inputs by layer; those that share them have the same object."""
        self._last = None
        kinds = [self._of.get(name) or self._make(name) for name in names]
        made = {key: kind.summary() for key, kind in {id(kind): kind for kind in kinds}.items()}
        return {name: made[id(kind)] for name, kind in zip(names, kinds, strict=True)}

"""What the channels between two layers look like on calibration text."""

from collections import Counter
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from danlu.calibration.method import BlockAtWork
from danlu.calibration.statistics import RowSample

SAMPLED_ROWS = 256  # inputs kept of a layer, to twice as many
EMA = 0.98  # share of the batches before, in a smoothed mean


class Listener(Protocol):
    """Hears the inputs of a group, batch by batch."""

    def hear(self, name: str, x_NI: Tensor) -> None:
        """Take in what entered the layer called `name`, float32."""


def listen(block: BlockAtWork, listeners: Mapping[str, Listener], steps: int) -> None:
    """Run the block once; every listener hears the first `steps` batches of its layers.

    Args:
        block: as it is now.
        listeners: by the name of a layer.
        steps: batches that are heard.

    Raises:
        QuantizationError: if an input is not finite, as the block says.
    """
    heard: Counter[str] = Counter()

    def hear(name: str, x_NI: Tensor) -> None:
        if not len(x_NI) or heard[name] == steps:
            return
        heard[name] += 1
        listeners[name].hear(name, x_NI.float())

    block.watch(list(listeners), hear)


class Ranges:
    """Smallest and largest value of each channel, and a sample of the inputs of each layer.

    Args:
        joined: the sample is of all batches, else of the last one.
    """

    def __init__(self, *, joined: bool = False) -> None:
        self._joined = joined
        self._low_I: Tensor | None = None
        self._high_I: Tensor | None = None
        self._rows: dict[str, RowSample] = {}

    def hear(self, name: str, x_NI: Tensor) -> None:
        """Widen the ranges, and keep some inputs."""
        low_I, high_I = torch.aminmax(x_NI, dim=0)
        self._low_I = low_I if self._low_I is None else torch.minimum(self._low_I, low_I)
        self._high_I = high_I if self._high_I is None else torch.maximum(self._high_I, high_I)
        if not self._joined or name not in self._rows:
            self._rows[name] = RowSample(SAMPLED_ROWS)
        self._rows[name].add(x_NI)

    def rows(self) -> dict[str, Tensor]:
        """Return the sample [N, in] of each layer that was heard."""
        return {name: sample.rows() for name, sample in self._rows.items()}

    def absolute(self) -> Tensor:
        """Return the largest absolute value of each channel."""
        low_I, high_I = self.bounds()
        return torch.maximum(-low_I, high_I)

    def span(self) -> Tensor:
        """Return the distance between the smallest and the largest value of each channel."""
        low_I, high_I = self.bounds()
        return high_I - low_I

    def middle(self) -> Tensor:
        """Return the middle between the smallest and the largest value of each channel."""
        low_I, high_I = self.bounds()
        return (low_I + high_I) / 2

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Return smallest and largest values; only if something was heard."""
        assert self._low_I is not None, "nothing was heard"
        assert self._high_I is not None
        return self._low_I, self._high_I

    @property
    def heard_nothing(self) -> bool:
        """Whether no token came there: experts that nobody chose."""
        return self._low_I is None


class Halves:
    """Ranges of both halves of each batch, so that one can judge what was found on the other.

    Attributes:
        whole: ranges of everything.
        parts: of the first and of the second half of each batch.
    """

    def __init__(self, *, joined: bool) -> None:
        self.whole = Ranges(joined=joined)
        self.parts = (Ranges(joined=joined), Ranges(joined=joined))

    def hear(self, name: str, x_NI: Tensor) -> None:
        """Widen the ranges, and keep some inputs."""
        self.whole.hear(name, x_NI)
        for part, rows_NI in zip(self.parts, x_NI.tensor_split(2), strict=True):
            if len(rows_NI):
                part.hear(name, rows_NI)

    def judges(self) -> list[tuple[Ranges, Ranges]]:
        """Return ranges to find scales by, each with what judges them: the other half."""
        first, second = self.parts
        if first.heard_nothing or second.heard_nothing:
            return [(self.whole, self.whole)]
        return [(first, second), (second, first)]


class Middle(Listener, Protocol):
    """Finds the middle of each channel."""

    def middle(self) -> Tensor | None:
        """Return the middle [in]; None if nothing was heard."""


class RangeMiddle(Middle):
    """The middle of the range of all batches (sampler none)."""

    def __init__(self) -> None:
        self._ranges = Ranges()

    def hear(self, name: str, x_NI: Tensor) -> None:
        """Widen the range."""
        self._ranges.hear(name, x_NI)

    def middle(self) -> Tensor | None:
        """Return the middle of the range."""
        return None if self._ranges.heard_nothing else self._ranges.middle()


class SmoothedMean(Middle):
    """The exponential moving average of the batches' means (sampler ema), without its start at 0.

    Source: the correction of Adam (arXiv:1412.6980, sec. 3).
    """

    def __init__(self) -> None:
        self._sum_I: Tensor | None = None
        self._weight = 0.0

    def hear(self, name: str, x_NI: Tensor) -> None:
        """Take in the mean of a batch."""
        mean_I = x_NI.mean(0)
        before = torch.zeros_like(mean_I) if self._sum_I is None else self._sum_I
        self._sum_I = EMA * before + (1 - EMA) * mean_I
        self._weight = EMA * self._weight + (1 - EMA)

    def middle(self) -> Tensor | None:
        """Return the average."""
        return None if self._sum_I is None else self._sum_I / self._weight

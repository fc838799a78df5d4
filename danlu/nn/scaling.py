"""Where the size of a channel may move from one layer into others without changing the function.

Source: SmoothQuant (arXiv:2211.10438, sec. 4), AWQ (arXiv:2306.00978, sec. 3.2) and Outlier
Suppression+ (arXiv:2304.09145, sec. 4), which fold scales and shifts into such pairs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

Kind = Literal["norm", "value", "up"]


@dataclass(frozen=True)
class ScalingGroup:
    """A layer that gives channels, and everything that reads them.

    The source's channels may be divided by positive numbers if the columns of all consumers are
    multiplied by the same: nothing else sees what lies between.

    Attributes:
        source: name of a norm or linear layer.
        consumers: names of the linear layers and routers that read it.
        kind: what lies between: nothing (norm), the attention of the values (value), or the
            activation, or its product with the gate (up).
        rows: output of the source that each channel of the consumers comes from; None: its own.
            Where heads share their values, channels share a row, and thus a factor.
    """

    source: str
    consumers: tuple[str, ...]
    kind: Kind
    rows: tuple[int, ...] | None = None

    def under(self, prefix: str) -> "ScalingGroup":
        """Return the group with `prefix` in front of its names."""
        consumers = tuple(prefix + name for name in self.consumers)
        return replace(self, source=prefix + self.source, consumers=consumers)


@runtime_checkable
class Scalable(Protocol):
    """A sublayer that tells where scales can be folded; names are relative to it."""

    def readers(self) -> Sequence[str]:
        """Return the linear layers and routers that read its input: they alone, and all of it."""

    def scaling_groups(self) -> list[ScalingGroup]:
        """Return the groups inside it, in the order of the forward pass."""


def value_rows(num_heads: int, num_kv_heads: int, size: int) -> tuple[int, ...]:
    """Return the row of v_proj that each channel of o_proj comes from.

    Args:
        num_heads: query heads, of which equally many consecutive ones share a value head.
        num_kv_heads: value heads.
        size: dims of a value head.
    """
    shared = num_heads // num_kv_heads
    return tuple(head // shared * size + dim for head in range(num_heads) for dim in range(size))

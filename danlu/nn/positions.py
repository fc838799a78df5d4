"""How a decoder knows the order of its tokens: rotary embeddings and linear biases.

A `PositionScheme` is asked once per forward pass for a `Rotation`, which every layer then applies
to its queries and keys; schemes that act on attention scores instead answer with `slopes`.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from danlu.errors import ShapeError


class Rotation(Protocol):
    """What happens to query and key heads before they meet."""

    def __call__(self, heads_BTHd: Tensor) -> Tensor:
        """Return the heads moved to their positions; shape and dtype are kept."""


class PositionScheme(Protocol):
    """The family's choice of position information."""

    def rotation(self, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation for tokens at `positions_BT`, to be used on heads of `dtype`."""

    def slopes(self, num_heads: int) -> tuple[float, ...] | None:
        """Return one linear-bias slope per query head, or None."""


def unrotated(heads_BTHd: Tensor) -> Tensor:
    """Return the heads as they are: the rotation of schemes without one."""
    return heads_BTHd


@dataclass(frozen=True)
class HalfSplitRotation:
    """Pairs (i, i + rotary/2): x * cos + swapped x * signed sin, over the first `rotary` dims."""

    cos_BT1r: Tensor
    sin_BT1r: Tensor  # its first half carries the minus sign

    def __call__(self, heads_BTHd: Tensor) -> Tensor:
        """Rotate the leading dims of each head; the others pass through."""
        rotary = self.cos_BT1r.shape[-1]
        if rotary == heads_BTHd.shape[-1]:
            return self._rotate(heads_BTHd)
        turned = self._rotate(heads_BTHd[..., :rotary])
        return torch.cat((turned, heads_BTHd[..., rotary:]), dim=-1)

    def _rotate(self, x: Tensor) -> Tensor:
        swapped = x.roll(x.shape[-1] // 2, dims=-1)
        return torch.addcmul(x * self.cos_BT1r, swapped, self.sin_BT1r)


@dataclass(frozen=True)
class InterleavedRotation:
    """Pairs (2i, 2i + 1), over the first `rotary` dims of each head."""

    cos_BT1p: Tensor  # one value per pair
    sin_BT1p: Tensor

    def __call__(self, heads_BTHd: Tensor) -> Tensor:
        """Rotate the leading dims of each head; the others pass through."""
        rotary = 2 * self.cos_BT1p.shape[-1]
        even, odd = heads_BTHd[..., :rotary:2], heads_BTHd[..., 1:rotary:2]
        turned = torch.stack(
            (
                even * self.cos_BT1p - odd * self.sin_BT1p,
                odd * self.cos_BT1p + even * self.sin_BT1p,
            ),
            dim=-1,
        ).flatten(-2)
        return torch.cat((turned, heads_BTHd[..., rotary:]), dim=-1)


@dataclass(frozen=True)
class Rope:
    """Rotary position embedding (arXiv:2104.09864, sec. 3.4).

    Angles are computed in float32 and only then cast to the dtype of the heads: bfloat16 angles
    lose positions beyond about 256.

    Attributes:
        rotary_dim: leading dims of each head that are rotated.
        theta: base of the geometric series of wavelengths.
        interleaved: pairs are neighbours (ChatGLM) instead of half a head apart (Llama).
        position_scale: positions are divided by this ("linear" scaling of long-context variants).
    """

    rotary_dim: int
    theta: float = 10000.0
    interleaved: bool = False
    position_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.rotary_dim % 2:
            raise ShapeError(
                f"Rotary embeddings turn pairs, but {self.rotary_dim} dims per head are asked for. "
                "Expected an even head_dim; check the sizes in config.json."
            )

    def rotation(self, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation by `positions_BT` (any leading shape)."""
        exponents = torch.arange(0, self.rotary_dim, 2, device=positions_BT.device).float()
        frequencies = self.theta ** (-exponents / self.rotary_dim)
        angles_BT1p = (positions_BT.float() / self.position_scale)[..., None, None] * frequencies
        cos, sin = angles_BT1p.cos(), angles_BT1p.sin()
        if self.interleaved:
            return InterleavedRotation(cos.to(dtype), sin.to(dtype))
        return HalfSplitRotation(
            torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)
        )

    def slopes(self, num_heads: int) -> None:
        """Return None: scores are not biased."""


@dataclass(frozen=True)
class Alibi:
    """Attention with linear biases (arXiv:2108.12409): score += slope * (key - query position)."""

    def rotation(self, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation that does nothing."""
        return unrotated

    def slopes(self, num_heads: int) -> tuple[float, ...]:
        """Return the paper's slopes; extra heads take the odd steps of the doubled series."""
        power = 2 ** (num_heads.bit_length() - 1)
        slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
        extra = [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(num_heads - power)]
        return tuple(slopes + extra)

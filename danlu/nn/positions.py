"""How a decoder knows the order of its tokens: rotary embeddings and linear biases.

A `PositionScheme` is asked once per forward pass for a `Rotation`, which every layer then applies
to its queries and keys; schemes that act on attention scores instead answer with `slopes`.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from danlu.errors import ShapeError
from danlu.nn.rope_scaling import RopeScaling


class Rotation:
    """What happens to query and key heads before they meet; this one does nothing."""

    def __call__(self, heads_BTHd: Tensor) -> Tensor:
        """Return the heads moved to their positions; shape and dtype are kept."""
        return heads_BTHd

    def scale_queries(self, q_BTHd: Tensor) -> Tensor:
        """Return rotated queries scaled by their position, in schemes that do so."""
        return q_BTHd


class PositionScheme(Protocol):
    """The family's choice of position information."""

    def rotation(self, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation for tokens at `positions_BT`, to be used on heads of `dtype`."""

    def slopes(self, num_heads: int) -> tuple[float, ...] | None:
        """Return one linear-bias slope per query head, or None."""


class Unbiased:
    """Scores are not biased by position: the answer of every scheme but ALiBi."""

    def slopes(self, num_heads: int) -> None:
        """Return None."""


@dataclass(frozen=True)
class Unrotated(Unbiased):
    """Heads as they are: for families whose positions are in the embedding."""

    def rotation(self, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation that does nothing."""
        return Rotation()


@dataclass(frozen=True)
class HalfSplitRotation(Rotation):
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
class InterleavedRotation(Rotation):
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
class Rope(Unbiased):
    """Rotary position embedding (arXiv:2104.09864, sec. 3.4).

    Angles are computed in float32 and only then cast to the dtype of the heads: bfloat16 angles
    lose positions beyond about 256.

    Attributes:
        rotary_dim: leading dims of each head that are rotated.
        theta: base of the geometric series of wavelengths.
        interleaved: pairs are neighbours (ChatGLM) instead of half a head apart (Llama).
        scaling: how long-context variants bend the frequencies.
    """

    rotary_dim: int
    theta: float = 10000.0
    interleaved: bool = False
    scaling: RopeScaling = RopeScaling()

    def __post_init__(self) -> None:
        if self.rotary_dim % 2:
            raise ShapeError(
                f"Rotary embeddings turn pairs, but {self.rotary_dim} dims per head are asked for. "
                "Expected an even head_dim; check the sizes in config.json."
            )

    def rotation(self, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation by `positions_BT` (any leading shape)."""
        frequencies = self.scaling.frequencies(self.rotary_dim, self.theta, positions_BT.device)
        angles = positions_BT.float()[..., None] * frequencies
        turn = interleaved_rotation if self.interleaved else half_split_rotation
        return turn(angles, dtype, self.scaling.magnitude)


def half_split_rotation(
    angles_BTp: Tensor, dtype: torch.dtype, magnitude: float = 1.0
) -> HalfSplitRotation:
    """Return the rotation of pairs half a head apart by `angles_BTp`, one angle per pair."""
    cos, sin = _cos_sin(angles_BTp, magnitude)
    return HalfSplitRotation(
        torch.cat((cos, cos), dim=-1).to(dtype), torch.cat((-sin, sin), dim=-1).to(dtype)
    )


def interleaved_rotation(
    angles_BTp: Tensor, dtype: torch.dtype, magnitude: float = 1.0
) -> InterleavedRotation:
    """Return the rotation of neighbouring pairs by `angles_BTp`, one angle per pair."""
    cos, sin = _cos_sin(angles_BTp, magnitude)
    return InterleavedRotation(cos.to(dtype), sin.to(dtype))


def _cos_sin(angles_BTp: Tensor, magnitude: float) -> tuple[Tensor, Tensor]:
    angles_BT1p = angles_BTp[..., None, :]
    if magnitude == 1.0:
        return angles_BT1p.cos(), angles_BT1p.sin()
    return angles_BT1p.cos() * magnitude, angles_BT1p.sin() * magnitude


@dataclass(frozen=True)
class Alibi:
    """Attention with linear biases (arXiv:2108.12409): score += slope * (key - query position)."""

    def rotation(self, positions_BT: Tensor, dtype: torch.dtype) -> Rotation:
        """Return the rotation that does nothing."""
        return Rotation()

    def slopes(self, num_heads: int) -> tuple[float, ...]:
        """Return the paper's slopes; extra heads take the odd steps of the doubled series."""
        power = 2 ** (num_heads.bit_length() - 1)
        slopes = [2.0 ** (-8.0 * (i + 1) / power) for i in range(power)]
        extra = [2.0 ** (-4.0 * (2 * i + 1) / power) for i in range(num_heads - power)]
        return tuple(slopes + extra)

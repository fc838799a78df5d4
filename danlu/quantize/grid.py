"""Weights on an integer grid: codes, scales, zero points."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Size, Tensor

from danlu.errors import QuantizationError
from danlu.quantize.weight import QuantizedWeight


@dataclass(frozen=True)
class IntegerGrid(QuantizedWeight):
    """w[o, i] = (codes[o, i] - zero_points[o, g(i)]) * scales[o, g(i)].

    Attributes:
        codes: int8 [out, in], in [-2^(bits-1), 2^(bits-1)).
        scales: [out, G].
        zero_points: int8 [out, G], or None for zero.
        bits: of a code.
        groups: int32 [in], the group g(i) of each input; None: group g holds the inputs
            g * in/G ... (g + 1) * in/G - 1.
    """

    codes: Tensor
    scales: Tensor
    zero_points: Tensor | None
    bits: int
    groups: Tensor | None = None

    @property
    def shape(self) -> Size:
        """[out, in]."""
        return self.codes.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the scales."""
        return self.scales.dtype

    @property
    def group_size(self) -> int:
        """Inputs that share a scale; where groups differ in size, of the largest."""
        if self.groups is not None:
            return int(torch.bincount(self.groups).max())
        return self.codes.shape[1] // self.scales.shape[1]

    @property
    def whole_rows(self) -> bool:
        """Whether there is one scale for each output."""
        return self.scales.shape[1] == 1

    def dequantize(self, dtype: torch.dtype | None = None) -> Tensor:
        """Return the weight [out, in], computed in float32, in `dtype` (default: of the scales)."""
        codes_OGg = self._grouped(self.codes)
        if self.zero_points is not None:
            codes_OGg = codes_OGg - self._spread(self.zero_points)
        weight: Tensor = (codes_OGg * self._spread(self.scales).float()).flatten(1)
        return weight.to(dtype or self.dtype)

    def _grouped(self, codes: Tensor) -> Tensor:
        """Return float32 codes, [out, G, in/G] where groups are runs of inputs."""
        regular = self.groups is None
        return (codes.unflatten(1, (self.scales.shape[1], -1)) if regular else codes).float()

    def _spread(self, of_groups_OG: Tensor) -> Tensor:
        """Return what is given for groups so that it meets the codes of `_grouped`."""
        if self.groups is None:
            return of_groups_OG[..., None]
        return of_groups_OG[:, self.groups]

    def rows(self, which: Tensor | slice) -> Self:
        """Return some outputs."""
        zeros = None if self.zero_points is None else self.zero_points[which]
        return replace(self, codes=self.codes[which], scales=self.scales[which], zero_points=zeros)

    @classmethod
    def stacked(cls, parts: Sequence[Self]) -> Self:
        """Return the outputs of all parts; they must be of one scheme."""
        first = parts[0]
        if any(not first._is_like(part) for part in parts[1:]):
            raise QuantizationError(
                "Weights of different bits, groups or zero points do not fit into one tensor. "
                "Quantize them with one scheme."
            )
        zeros = [part.zero_points for part in parts if part.zero_points is not None]
        return replace(
            first,
            codes=torch.cat([part.codes for part in parts]),
            scales=torch.cat([part.scales for part in parts]),
            zero_points=torch.cat(zeros) if zeros else None,
        )

    def _is_like(self, other: "IntegerGrid") -> bool:
        mine, theirs = self.groups, other.groups
        regular = mine is None or theirs is None
        alike = mine is theirs if regular else torch.equal(mine, theirs)  # type: ignore[arg-type]
        zeros = (self.zero_points is None) == (other.zero_points is None)
        same_groups = self.scales.shape[1] == other.scales.shape[1]
        return alike and zeros and same_groups and self.bits == other.bits

    def to(self, dtype: torch.dtype) -> Self:
        """Return the weight with its scales in another dtype."""
        return replace(self, scales=self.scales.to(dtype))

    def tensors(self) -> dict[str, Tensor]:
        """Return codes, scales, and zero points and groups where there are any."""
        optional = {"zero_points": self.zero_points, "groups": self.groups}
        given = {name: tensor for name, tensor in optional.items() if tensor is not None}
        return {"codes": self.codes, "scales": self.scales, **given}

    def with_tensors(self, tensors: Mapping[str, Tensor]) -> Self:
        """Return the weight of other tensors."""
        return replace(self, **dict[str, Any](tensors))


def regular_groups(groups: Tensor, num_groups: int) -> Tensor | None:
    """Return `groups` [in] as `IntegerGrid` wants it: None if they are equal runs in order."""
    inputs = len(groups)
    if inputs % num_groups == 0:
        runs = torch.arange(inputs, device=groups.device) // (inputs // num_groups)
        if torch.equal(groups.long(), runs):
            return None
    return groups.to(torch.int32)

"""Two-way rules between published tensor names and the decoder's own.

A family lists only what differs from Llama-style names. A rule speaks about modules; it holds for
their weight and bias alike, and runs in both directions: `Layout` expands the rules over a model's
parameters into one `Entry` per published tensor, which loading splits and saving joins.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Size, Tensor

from danlu.errors import CheckpointError


class Arrangement(Protocol):
    """How one or several tensors lie in one published tensor."""

    @property
    def rows(self) -> "Arrangement":
        """The arrangement of the outputs alone, for tensors with one row per output."""

    def split(self, fused: Tensor, shapes: Sequence[Size]) -> list[Tensor]:
        """Return the parts of `fused`, of the given shapes."""

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the published tensor of the parts; the exact inverse of `split`."""

    def fused_shape(self, shapes: Sequence[Size]) -> Size:
        """Return the shape of the published tensor."""


@dataclass(frozen=True)
class Stacked:
    """Parts one after the other along the rows."""

    @property
    def rows(self) -> "Stacked":
        """This arrangement: it is one of outputs already."""
        return self

    def split(self, fused: Tensor, shapes: Sequence[Size]) -> list[Tensor]:
        """Cut the rows; a single part is the tensor itself."""
        if len(shapes) == 1:
            return [fused]
        return list(fused.split([shape[0] for shape in shapes]))

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Stack the rows; a single part is itself."""
        return parts[0] if len(parts) == 1 else torch.cat(list(parts))

    def fused_shape(self, shapes: Sequence[Size]) -> Size:
        """Return the shape with all rows."""
        return Size((sum(shape[0] for shape in shapes), *shapes[0][1:]))


@dataclass(frozen=True)
class PerHead(Stacked):
    """Parts alternate per head: all of head 0, then all of head 1, ... (BLOOM, GPT-NeoX).

    Attributes:
        num_heads: heads; each part has the same number of rows per head.
    """

    num_heads: int

    def split(self, fused: Tensor, shapes: Sequence[Size]) -> list[Tensor]:
        """Collect each part's rows from all heads."""
        heads = fused.unflatten(0, (self.num_heads, len(shapes), -1))
        return [heads[:, i].flatten(0, 1) for i in range(len(shapes))]

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Deal the rows of each part out to the heads again."""
        heads = [part.unflatten(0, (self.num_heads, -1)) for part in parts]
        return torch.stack(heads, dim=1).flatten(0, 2)


@dataclass(frozen=True)
class Transposed:
    """Weights lie as [inputs, outputs] (the Conv1D of GPT-2); biases as ever.

    Attributes:
        rows: how the outputs of several parts lie side by side.
    """

    rows: Arrangement = Stacked()

    def split(self, fused: Tensor, shapes: Sequence[Size]) -> list[Tensor]:
        """Turn the tensor, then split it."""
        return self.rows.split(fused.t(), shapes)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Join the parts, then turn the tensor."""
        return self.rows.join(parts).t().contiguous()

    def fused_shape(self, shapes: Sequence[Size]) -> Size:
        """Return the turned shape."""
        return Size(reversed(self.rows.fused_shape(shapes)))


@dataclass(frozen=True)
class Rename:
    """One published module is one of ours. `{i}` stands for the layer number."""

    published: str
    ours: str
    arrangement: Arrangement = Stacked()


@dataclass(frozen=True)
class Split:
    """One published module holds several of ours, side by side along the output dim."""

    published: str
    into: tuple[str, ...]
    arrangement: Arrangement = Stacked()


Rule = Rename | Split


@dataclass(frozen=True)
class Ignore:
    """Tensors with this ending, and this beginning, are no parameters.

    Attributes:
        ending: of the tensor name.
        reason: why nothing is lost.
        start: of the tensor name.
    """

    ending: str
    reason: str
    start: str = ""

    def covers(self, name: str) -> bool:
        """Return whether a tensor is of this kind."""
        return name.startswith(self.start) and name.endswith(self.ending)


@dataclass(frozen=True)
class Entry:
    """One published tensor and the parameters it becomes."""

    published: str
    ours: tuple[str, ...]
    shapes: tuple[Size, ...]
    arrangement: Arrangement

    @property
    def shape(self) -> Size:
        """The shape of the published tensor."""
        return self.arrangement.fused_shape(self.shapes)

    def load(self, tensor: Tensor) -> dict[str, Tensor]:
        """Return our tensors of the published one."""
        return dict(zip(self.ours, self.arrangement.split(tensor, self.shapes), strict=True))

    def save(self, state: Mapping[str, Tensor]) -> Tensor:
        """Return the published tensor of ours."""
        return self.arrangement.join([state[name] for name in self.ours])


class Layout:
    """Every tensor that a published checkpoint holds, as entries; total and invertible.

    Args:
        rules: what differs from our names.
        shapes: name and shape of each of our parameters.
        num_layers: how often rules with `{i}` are repeated.

    Raises:
        CheckpointError: if two rules claim one parameter.
    """

    def __init__(self, rules: Iterable[Rule], shapes: Mapping[str, Size], num_layers: int) -> None:
        entries = _expand(rules, shapes, num_layers)
        claimed = [name for entry in entries for name in entry.ours]
        twice = sorted({name for name in claimed if claimed.count(name) > 1})
        if twice:
            raise CheckpointError(f"Two name rules claim the same parameters: {', '.join(twice)}")
        rest = [
            Entry(name, (name,), (shape,), Stacked())
            for name, shape in shapes.items()
            if name not in set(claimed)
        ]
        self.entries = {entry.published: entry for entry in entries + rest}


def _expand(rules: Iterable[Rule], shapes: Mapping[str, Size], num_layers: int) -> list[Entry]:
    entries = []
    for rule in rules:
        repeats = range(num_layers) if "{i}" in rule.published else range(1)
        for i in repeats:
            entries += _entries_of(rule, i, shapes)
    return entries


def _entries_of(rule: Rule, layer: int, shapes: Mapping[str, Size]) -> list[Entry]:
    modules = (rule.ours,) if isinstance(rule, Rename) else rule.into
    entries = []
    for suffix in (".weight", ".bias"):
        ours = tuple(module.format(i=layer) + suffix for module in modules)
        if all(name in shapes for name in ours):
            found = tuple(shapes[name] for name in ours)
            published = rule.published.format(i=layer) + suffix
            entries.append(Entry(published, ours, found, rule.arrangement))
    return entries

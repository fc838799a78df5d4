"""Our low-rank updates as those of the published layers that ours lie in.

Layers of ours that share A, as those of one published layer do, give an update of its rank. Layers
that were adapted apart are written as one update with their ranks stacked, and what was taken off
the base (PiSSA) as an update of twice the rank; danlu.json notes how to take that apart again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.adapters.lora.low_rank import DoRALinear, LoRALinear, SubtractedLoRALinear
from danlu.adapters.peft.reading import owners
from danlu.adapters.wrappers import original, stored_weight
from danlu.nn.linear import LinearLike
from danlu.weights.rules import Entry

UPDATES = "updates"  # key of danlu.json


@dataclass(frozen=True)
class LowRank:
    """The update of one published layer: B A * scale, and the lengths of DoRA's rows.

    Attributes:
        lora_A: [rank, in].
        lora_B: [out, rank].
        scale: of the product.
        magnitude: [out], or None.
        record: how our layers lie in it, if not as one; None: as one.
    """

    lora_A: Tensor
    lora_B: Tensor
    scale: float
    magnitude: Tensor | None = None
    record: Mapping[str, Any] | None = None

    @property
    def rank(self) -> int:
        """Rank of the update."""
        return self.lora_A.shape[0]

    def tensors(self, name: str) -> dict[str, Tensor]:
        """Return the tensors of a linear layer by their keys without prefix."""
        found = {f"{name}.lora_A.weight": self.lora_A, f"{name}.lora_B.weight": self.lora_B}
        if self.magnitude is not None:
            found[f"{name}.lora_magnitude_vector"] = self.magnitude
        return found


@torch.no_grad()
def published_updates(
    adapted: Mapping[str, LoRALinear],
    linears: Mapping[str, LinearLike],
    entries: Mapping[str, Entry],
) -> dict[str, LowRank]:
    """Return the updates by the published layers that our adapted ones lie in."""
    return {
        name.removesuffix(".weight"): _published_update(entry, adapted, linears)
        for name, entry in entries.items()
        if name.endswith(".weight") and any(owner in adapted for owner in owners(entry))
    }


def _published_update(
    entry: Entry, adapted: Mapping[str, LoRALinear], linears: Mapping[str, LinearLike]
) -> LowRank:
    """Return one update for all of a published layer; parts without one get one of zero."""
    names = owners(entry)
    layers = [adapted[name] for name in names if name in adapted]
    factors = {name: adapted[name].factors() for name in names if name in adapted}
    scale = layers[0].scale
    if len({id(layer.lora_A) for layer in layers}) == 1 and len(layers) == len(names):
        shared_A = factors[names[0]][0]
        parts = [factors[name][1] for name in names]
    else:
        shared_A = torch.cat([lora_A for lora_A, _ in factors.values()])
        parts = _in_columns(names, adapted, linears, shared_A.shape[0], scale)
    joined_B = parts[0] if len(parts) == 1 else entry.arrangement.rows.join(parts)
    record = _record([adapted.get(name) for name in names], shared_A.shape[0])
    return LowRank(shared_A, joined_B, scale, _magnitude(entry, adapted, linears), record)


def _record(layers: Sequence[LoRALinear | None], rank: int) -> dict[str, Any] | None:
    """Return what reading needs to take a stacked or converted update apart."""
    ranks = [0 if layer is None else len(layer.factors()[0]) for layer in layers]
    subtracted = any(isinstance(layer, SubtractedLoRALinear) for layer in layers)
    if sum(ranks) != rank or (len(ranks) == 1 and not subtracted):
        return None  # one update, or one A for all
    return {"ranks": ranks, "subtracted": subtracted}


def _in_columns(
    names: Sequence[str],
    adapted: Mapping[str, LoRALinear],
    linears: Mapping[str, LinearLike],
    total_rank: int,
    scale: float,
) -> list[Tensor]:
    """Return B of each layer in the columns of its own ranks among all."""
    parts, begin = [], 0
    for name in names:
        if name not in adapted:
            device = next(iter(adapted.values())).lora_B.device
            parts.append(torch.zeros(linears[name].out_features, total_rank, device=device))
            continue
        own_B = adapted[name].factors()[1] * (adapted[name].scale / scale)
        rank = own_B.shape[1]
        parts.append(F.pad(own_B, (begin, total_rank - begin - rank)))
        begin += rank
    return parts


def _magnitude(
    entry: Entry, adapted: Mapping[str, LoRALinear], linears: Mapping[str, LinearLike]
) -> Tensor | None:
    """Return the lengths of all rows of a published layer, if any of it is DoRA's."""
    names = owners(entry)
    if not any(isinstance(adapted.get(name), DoRALinear) for name in names):
        return None
    lengths = []
    for name in names:
        layer = adapted.get(name)
        plain_O = stored_weight(original(linears[name])).float().norm(dim=1)
        lengths.append((layer.magnitude if isinstance(layer, DoRALinear) else plain_O)[:, None])
    return entry.arrangement.rows.join(lengths).reshape(-1)

"""LoRA of PEFT's files: published updates become ours, and ours published ones.

Where a published layer holds several of ours (a fused query_key_value), they share A as they do in
the tool that wrote it. Layers of ours that were adapted apart are written as one update, their
ranks stacked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.adapters.low_rank import (
    DoRAEmbedding,
    DoRALinear,
    LoRAEmbedding,
    LoRALinear,
    LoRAOnStoredLinear,
    SubtractedLoRALinear,
)
from danlu.adapters.peft_reading import (
    Reading,
    from_pattern,
    on_base,
    owners,
    sizes,
    split_rows,
)
from danlu.adapters.peft_tensors import Parts
from danlu.adapters.starts import START, subtracts
from danlu.adapters.targets import EMBEDDING
from danlu.adapters.wrappers import original, stored_weight
from danlu.adapters.wrapping import embedding_of
from danlu.errors import AdapterError
from danlu.nn.linear import Linear, LinearLike
from danlu.weights.rules import Entry


def read_low_rank(reading: Reading, parts: Parts) -> None:
    """Read every low-rank update of a file onto linear layers and the embedding."""
    linears = dict(reading.model.linears())
    for name, tensors in parts.with_kinds("lora_A", "lora_B", "magnitude").items():
        if "embedding_A" in parts.modules[name]:
            continue
        entry = reading.entry(f"{name}.weight")
        if entry is not None and _fits(reading, name, tensors, entry, linears):
            reading.wrappers += _wrap(reading.source.config, name, tensors, entry, linears)
    for name, tensors in parts.with_kinds("embedding_A", "embedding_B", "magnitude").items():
        if "lora_A" not in parts.modules[name] and "embedding_A" in tensors:
            _read_embedding(reading, name, tensors)


def _fits(
    reading: Reading,
    name: str,
    tensors: Mapping[str, Tensor],
    entry: Entry,
    linears: Mapping[str, LinearLike],
) -> bool:
    problem = _misfit(name, tensors, entry, linears, bool(reading.source.config.get("use_dora")))
    if problem:
        reading.problems.append(problem)
    return problem is None


def _misfit(
    name: str,
    tensors: Mapping[str, Tensor],
    entry: Entry,
    linears: Mapping[str, LinearLike],
    is_dora: bool,
) -> str | None:
    if not {"lora_A", "lora_B"} <= tensors.keys() or any(
        tensors[kind].ndim != 2 for kind in ("lora_A", "lora_B")
    ):
        return f"{name} lacks A or B of its update"
    lora_A, lora_B = tensors["lora_A"], tensors["lora_B"]
    if lora_A.shape[0] != lora_B.shape[1]:
        return (
            f"{name}: A and B do not belong together, with ranks {lora_A.shape[0]} and "
            f"{lora_B.shape[1]}"
        )
    if not all(owner in linears for owner in owners(entry)):
        return f"{name} is no linear layer"
    outputs, inputs = sizes(entry)
    if (lora_B.shape[0], lora_A.shape[1]) != (outputs, inputs):
        return (
            f"{name} adapts a [{lora_B.shape[0]}, {lora_A.shape[1]}] weight; "
            f"the base has [{outputs}, {inputs}]"
        )
    if is_dora != ("magnitude" in tensors):
        return f"{name}: use_dora is {is_dora}, which its tensors contradict"
    if is_dora and tensors["magnitude"].numel() != outputs:
        return f"{name} has {tensors['magnitude'].numel()} magnitudes; the base has {outputs}"
    return None


def _wrap(
    config: Mapping[str, Any],
    name: str,
    tensors: Mapping[str, Tensor],
    entry: Entry,
    linears: Mapping[str, LinearLike],
) -> list[tuple[str, LoRALinear]]:
    """Return our adapted layers for one published layer; they share A."""
    names = owners(entry)
    first = linears[names[0]]
    shared_A = nn.Parameter(on_base(tensors["lora_A"], first))
    parts_B = split_rows(entry, tensors["lora_B"])
    scale = scale_of(name, shared_A.shape[0], config)
    options: list[dict[str, Any]] = [{} for _ in names]
    if "magnitude" in tensors:
        magnitudes = split_rows(entry, tensors["magnitude"].reshape(-1, 1))
        options = [{"magnitude": on_base(m.reshape(-1), first)} for m in magnitudes]
    start = str(config.get("init_lora_weights")).lower()
    if subtracts(start):
        options = published_start(entry, linears, START[start], shared_A.shape[0], scale)
    dropout = float(config.get("lora_dropout") or 0.0)
    return [
        (
            owner,
            around(
                linears[owner], shared_A, on_base(part, linears[owner]), scale, dropout, **option
            ),
        )
        for owner, part, option in zip(names, parts_B, options, strict=True)
    ]


def published_start(
    entry: Entry, linears: Mapping[str, LinearLike], start: Any, rank: int, scale: float
) -> list[dict[str, Any]]:
    """Return the part that is taken off each of our layers of a published one."""
    weights = [stored_weight(original(linears[owner])).float() for owner in owners(entry)]
    fused_OI = entry.arrangement.rows.join(weights)
    start_A, start_B = start(fused_OI, rank, scale)
    return [{"start": (start_A, part)} for part in split_rows(entry, start_B)]


def around(
    base: LinearLike, lora_A: Tensor, lora_B: Tensor, scale: float, dropout: float, **extra: Any
) -> LoRALinear:
    """Return a low-rank update around a layer, of the class that fits both.

    Args:
        base: the layer.
        lora_A: [rank, in], a parameter where it is shared.
        lora_B: [out, rank].
        scale: of the update.
        dropout: on its input.
        extra: `magnitude` for DoRA (None: that of the base), `start` for what begins at a part of
            the base.

    Raises:
        AdapterError: if DoRA or a start meets a layer that normalises its weight.
    """
    plain = original(base)
    if isinstance(plain, Linear) and type(plain).effective is not Linear.effective:
        refuse_extra(extra)
        return LoRAOnStoredLinear(base, lora_A, lora_B, scale, dropout)
    if "magnitude" in extra:
        return DoRALinear(base, lora_A, lora_B, scale, dropout, magnitude=extra["magnitude"])
    if "start" in extra:
        return SubtractedLoRALinear(base, lora_A, lora_B, scale, dropout, start=extra["start"])
    return LoRALinear(base, lora_A, lora_B, scale, dropout)


def refuse_extra(extra: Mapping[str, Any]) -> None:
    """Refuse DoRA and taken-off starts where a layer normalises its weight."""
    if extra:
        raise AdapterError(
            f"{' and '.join(extra)} on a head that divides its rows by their lengths: its weight "
            "has no lengths of its own. Use plain LoRA there, or leave lm_head out."
        )


def scale_of(name: str, rank: int, config: Mapping[str, Any]) -> float:
    """Return what the update of a published layer is multiplied by."""
    alpha = float(from_pattern(name, config.get("alpha_pattern"), config["lora_alpha"]))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _read_embedding(reading: Reading, name: str, tensors: Mapping[str, Tensor]) -> None:
    entry = reading.entry(f"{name}.weight")
    if entry is None:
        return
    if owners(entry) != [EMBEDDING]:
        reading.problems.append(f"{name} is no embedding of tokens")
        return
    vocab, width = entry.shape
    lora_A, lora_B = tensors["embedding_A"], tensors.get("embedding_B")
    shape_B = None if lora_B is None else list(lora_B.shape)
    if lora_B is None or lora_A.shape[1] != vocab or lora_B.shape != (width, lora_A.shape[0]):
        reading.problems.append(
            f"{name} has A {list(lora_A.shape)} and B {shape_B}; the base has [{vocab}, {width}]"
        )
        return
    base = embedding_of(reading.model)
    scale = scale_of(name, lora_A.shape[0], reading.source.config)
    own = (on_base(lora_A, base), on_base(lora_B, base))
    if "magnitude" in tensors:
        magnitude = on_base(tensors["magnitude"].reshape(-1), base)
        reading.wrappers.append((EMBEDDING, DoRAEmbedding(base, *own, scale, magnitude=magnitude)))
    else:
        reading.wrappers.append((EMBEDDING, LoRAEmbedding(base, *own, scale)))


@dataclass(frozen=True)
class LowRank:
    """The update of one published layer: B A * scale, and the lengths of DoRA's rows."""

    lora_A: Tensor
    lora_B: Tensor
    scale: float
    magnitude: Tensor | None = None

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
    return LowRank(shared_A, joined_B, scale, _magnitude(entry, adapted, linears))


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

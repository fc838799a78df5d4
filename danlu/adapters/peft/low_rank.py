"""LoRA of PEFT's files: published updates become ours.

Where a published layer holds several of ours (a fused query_key_value), they share A as they do in
the tool that wrote it. What `published_updates` wrote as one update is taken apart again.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danlu.adapters.lora.low_rank import (
    DoRALinear,
    LoRALinear,
    LoRAOnStoredLinear,
    SubtractedLoRALinear,
)
from danlu.adapters.lora.low_rank_embedding import DoRAEmbedding, LoRAEmbedding
from danlu.adapters.lora.starts import START, subtracts
from danlu.adapters.peft.published_updates import UPDATES
from danlu.adapters.peft.reading import (
    Reading,
    from_pattern,
    on_base,
    owners,
    sizes,
    split_rows,
)
from danlu.adapters.peft.tensors import Parts
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
            record = checked_record(reading, name, entry, tensors["lora_A"].shape[0])
            reading.wrappers += _wrap(reading.source.config, name, tensors, entry, linears, record)
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
    record: Mapping[str, Any] | None,
) -> list[tuple[str, LoRALinear]]:
    """Return our adapted layers for one published layer; they share A, if not told otherwise."""
    if record is not None:
        return _wrap_apart(config, name, tensors, entry, linears, record)
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


def checked_record(
    reading: Reading, name: str, entry: Entry, rank: int
) -> Mapping[str, Any] | None:
    """Return what Danlu noted of an update that it wrote stacked or converted; None if nothing."""
    record = reading.source.stamp.get(UPDATES, {}).get(name)
    if record is None:
        return None
    ranks = record.get("ranks")
    if not isinstance(ranks, list) or len(ranks) != len(entry.ours) or sum(ranks) != rank:
        reading.problems.append(f"danlu.json notes ranks {ranks} for {name}, which has {rank}")
        return None
    return dict(record)


def _wrap_apart(
    config: Mapping[str, Any],
    name: str,
    tensors: Mapping[str, Tensor],
    entry: Entry,
    linears: Mapping[str, LinearLike],
    record: Mapping[str, Any],
) -> list[tuple[str, LoRALinear]]:
    """Return the layers as they were before they were written as one update."""
    scale = scale_of(name, tensors["lora_A"].shape[0], config)
    dropout = float(config.get("lora_dropout") or 0.0)
    parts_B = split_rows(entry, tensors["lora_B"])
    parts_m: list[Tensor] = []
    if "magnitude" in tensors:
        parts_m = split_rows(entry, tensors["magnitude"].reshape(-1, 1))
    wrapped, begin = [], 0
    for i, (owner, rank) in enumerate(zip(owners(entry), record["ranks"], strict=True)):
        own = slice(begin, begin + rank)
        begin += rank
        if rank == 0:  # this layer had no update of its own
            continue
        base = linears[owner]
        lora_A, lora_B = on_base(tensors["lora_A"][own], base), on_base(parts_B[i][:, own], base)
        extra: dict[str, Any] = {}
        if parts_m:
            extra = {"magnitude": on_base(parts_m[i].reshape(-1), base)}
        if record.get("subtracted"):
            half = rank // 2
            extra = {"start": (lora_A[half:], -lora_B[:, half:])}
            lora_A, lora_B = lora_A[:half].contiguous(), lora_B[:, :half].contiguous()
        wrapped.append((owner, around(base, lora_A, lora_B, scale, dropout, **extra)))
    return wrapped


@torch.no_grad()
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

"""Token rows in PEFT's files: `trainable_token_indices` beside LoRA, or `TRAINABLE_TOKENS` alone.

Despite its name, `trainable_tokens_delta` [n, D] holds the new rows, in the order of the indices.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danlu.adapters.attached import Adaptable
from danlu.adapters.peft.reading import Reading, on_base, owners
from danlu.adapters.peft.tensors import Parts
from danlu.adapters.targets import EMBEDDING, HEAD
from danlu.adapters.token_rows import RowsEmbedding, RowsLinear
from danlu.adapters.wrappers import original, original_embedding, stored_weight
from danlu.adapters.wrapping import Wrapped, Wrapping, embedding_of
from danlu.nn.linear import LinearLike
from danlu.weights.rules import Entry


def read_rows(reading: Reading, parts: Parts) -> None:
    """Read the trained rows of embedding and head; those of a tied head are the embedding's."""
    for name, tensors in parts.with_kinds("rows").items():
        entry = reading.entry(f"{name}.weight")
        if entry is None:
            continue
        ids = _indices(reading.source.config, name)
        if problem := _misfit(name, ids, tensors["rows"], entry):
            reading.problems.append(problem)
        elif owners(entry) == [EMBEDDING]:
            base = embedding_of(reading.model)
            both = is_tied(reading.model) and not _head_has_own(reading, parts)
            reading.wrappers += around_rows(
                reading.model, ids, on_base(tensors["rows"], base), embedding=True, head=both
            )
        else:
            head = head_of(reading.model)
            reading.wrappers += around_rows(
                reading.model, ids, on_base(tensors["rows"], head), embedding=False, head=True
            )


def _head_has_own(reading: Reading, parts: Parts) -> bool:
    """Return whether the file has other rows for the head."""
    entries = [reading.entries.get(f"{name}.weight") for name in parts.with_kinds("rows")]
    return any(entry is not None and owners(entry) == [HEAD] for entry in entries)


def _indices(config: Mapping[str, Any], module: str) -> list[int]:
    """Return the tokens whose rows of a published module were trained, in the file's order."""
    named = config.get("trainable_token_indices", config.get("token_indices"))
    if isinstance(named, dict):
        named = next((v for k, v in named.items() if f".{module}".endswith(f".{k}")), None)
    return list(named) if isinstance(named, list) else []


def _misfit(name: str, ids: list[int], rows: Tensor, entry: Entry) -> str | None:
    if owners(entry) not in ([EMBEDDING], [HEAD]):
        return f"{name} has trained rows; expected them in embedding and head only"
    vocab, width = entry.shape
    if len(ids) != len(rows) or len(set(ids)) != len(ids):
        return f"{name} has {len(rows)} trained rows for {len(set(ids))} tokens in the config"
    wrong = [i for i in ids if not 0 <= i < vocab]
    if wrong:
        return f"{name}: the base has no tokens {wrong}; it has {vocab}"
    if rows.shape[1] != width:
        return f"{name} has rows of {rows.shape[1]} numbers; the base has {width}"
    return None


def is_tied(model: Adaptable) -> bool:
    """Return whether the head of the base multiplies by the embedding's matrix."""
    return bool(model.config.tie_word_embeddings)


def head_of(model: Adaptable) -> LinearLike:
    """Return the head as it is now, wrappers and all."""
    return dict(model.linears())[HEAD]


def around_rows(
    model: Adaptable, ids: list[int], rows_nD: Tensor, *, embedding: bool, head: bool
) -> list[tuple[str, Wrapped]]:
    """Return wrappers around embedding and head, or one of them, that share the rows of `ids`."""
    order = torch.tensor(ids).argsort()
    ids_n = torch.tensor(ids)[order].to(rows_nD.device)
    rows = nn.Parameter(rows_nD[order.to(rows_nD.device)])
    wrappers: list[tuple[str, Wrapped]] = []
    if embedding:
        wrappers.append((EMBEDDING, RowsEmbedding(embedding_of(model), ids_n, rows)))
    if head:
        wrappers.append((HEAD, RowsLinear(head_of(model), ids_n, rows)))
    return wrappers


def fresh_rows(model: Adaptable, ids: list[int]) -> list[tuple[str, Wrapped]]:
    """Return rows of `ids` that begin as the base's; embedding and head share them if tied."""
    ids = sorted(set(ids))
    plain_VD = original_embedding(embedding_of(model)).weight.detach()
    rows_nD = plain_VD[torch.tensor(ids, device=plain_VD.device)].float()
    if is_tied(model):
        return around_rows(model, ids, rows_nD, embedding=True, head=True)
    head_VD = stored_weight(original(head_of(model))).detach()
    head_nD = head_VD[torch.tensor(ids, device=head_VD.device)].float()
    return [
        *around_rows(model, ids, rows_nD, embedding=True, head=False),
        *around_rows(model, ids, head_nD, embedding=False, head=True),
    ]


def published_rows(
    attached: Wrapping, entries: Mapping[str, Entry], infix: str = ""
) -> tuple[dict[str, Tensor], dict[str, list[int]]]:
    """Return the rows by their keys without prefix, and the tokens by published module.

    Args:
        attached: with wrappers of rows, or without.
        entries: the published tensors.
        infix: what stands between module and tensor in the key.
    """
    tensors: dict[str, Tensor] = {}
    indices: dict[str, list[int]] = {}
    written: set[int] = set()
    for name, wrapper in attached.wrappers:
        if not isinstance(wrapper, RowsEmbedding | RowsLinear) or id(wrapper.rows) in written:
            continue
        written.add(id(wrapper.rows))
        module = published_module(entries, name)
        tensors[f"{module}.{infix}trainable_tokens_delta"] = wrapper.rows.detach()
        indices[module] = wrapper.ids_n.tolist()
    return tensors, indices


def published_module(entries: Mapping[str, Entry], ours: str) -> str:
    """Return the published module of one of our layers that is one alone."""
    for name, entry in entries.items():
        if entry.ours == (f"{ours}.weight",):
            return name.removesuffix(".weight")
    return ours

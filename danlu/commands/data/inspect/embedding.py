"""Control tokens whose row of the embedding looks as if no training had ever touched it.

A base model has rows for the control tokens of its chat model, but often never saw them: they are
zero, alike, as small as they were drawn, or like the rows beyond the vocabulary. LoRA on attention
and MLP leaves them as they are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from danlu.commands.data.inspect.checks import Finding
from danlu.errors import bullet_list
from danlu.loading import decoder_from_config, read_model_config
from danlu.loading.building import family_named, family_of_folder
from danlu.loading.layout import EMBEDDING, published_layout
from danlu.weights.files import WeightFile, find_weight_files

CHUNK_ROWS = 8192
SMALL = 0.4  # of the median norm; trained rows are rarely below, drawn or averaged ones mostly
FEWEST_SPARE = 8  # rows without a token, to tell how such rows look
RARE = 0.05  # part of the rows with a token that may look like those without


@dataclass(frozen=True)
class EmbeddingRows:
    """What is known of an embedding's rows.

    Attributes:
        norms_V: the norm of every row, float32.
        num_tokens: the rows that have a token; the others are certainly untrained.
        num_twins: for the tokens looked at, how many other rows are equal to theirs.
    """

    norms_V: Tensor
    num_tokens: int
    num_twins: Mapping[int, int]


def untrained_tokens(
    folder: Path, family: str | None, tokens: Mapping[int, str], num_tokens: int
) -> list[Finding]:
    """Return which of these control tokens look untrained in a checkpoint.

    Reads the embedding alone, a part at a time.

    Args:
        folder: of the checkpoint.
        family: where its config.json does not tell it.
        tokens: ids, with their names.
        num_tokens: of the tokenizer.

    Raises:
        CheckpointError: if config or weights cannot be opened.
    """
    found = find_embedding(folder, family) if tokens else None
    if found is None:
        return []
    file, name = found
    matrix_VD = file.read(name)
    if not matrix_VD.is_floating_point():
        return []
    known = [token_id for token_id in tokens if token_id < len(matrix_VD)]
    rows = measure(matrix_VD, known, num_tokens)
    file.give_back(name)
    reasons = dict.fromkeys(tokens, "has no row in the embedding")
    reasons |= {token_id: why_untrained(rows, token_id) for token_id in known}
    listed = [f"{tokens[token_id]} {reason}" for token_id, reason in reasons.items() if reason]
    if not listed:
        return []
    return [
        Finding(
            f"Control tokens that look untrained in '{folder}':{bullet_list(listed)}",
            "An adapter on attention and MLP cannot teach them. Train their rows too (token rows, "
            "or the whole embedding and head).",
        )
    ]


def find_embedding(folder: Path, family: str | None) -> tuple[WeightFile, str] | None:
    """Return the file and the published name of a checkpoint's embedding, None if it has none."""
    config = read_model_config(folder)
    decoder = decoder_from_config(config, family_of_folder(folder, config, family))
    assert decoder.published is not None
    prefix = family_named(decoder.published.family).optional_prefix
    entries = published_layout(decoder).entries
    names = {name for name, entry in entries.items() if entry.ours == (EMBEDDING,)}
    for file in find_weight_files(folder):
        for name in file.names():
            if name in names or prefix + name in names:
                return file, name
    return None


def measure(matrix_VD: Tensor, token_ids: Sequence[int], num_tokens: int) -> EmbeddingRows:
    """Return the norms of all rows, and how many rows are equal to those of some tokens."""
    norms_V = torch.cat([part.float().norm(dim=1) for part in matrix_VD.split(CHUNK_ROWS)])
    twins = {
        token_id: sum(
            torch.equal(matrix_VD[other], matrix_VD[token_id])
            for other in (norms_V == norms_V[token_id]).nonzero()[:, 0].tolist()
            if other != token_id
        )
        for token_id in token_ids
    }
    return EmbeddingRows(norms_V, num_tokens, twins)


def why_untrained(rows: EmbeddingRows, token_id: int) -> str:
    """Return why a row looks untrained; "" if it does not."""
    norm, median = float(rows.norms_V[token_id]), float(rows.norms_V[: rows.num_tokens].median())
    if norm == 0:
        return "is all zeros"
    if rows.num_twins[token_id]:
        return f"is equal to {rows.num_twins[token_id]} other rows"
    if norm < SMALL * median:
        return f"has the norm {norm:.3g}, half of all have more than {median:.3g}"
    return "is like the rows without a token" if _is_like_spare(rows, norm) else ""


def _is_like_spare(rows: EmbeddingRows, norm: float) -> bool:
    spare, named = rows.norms_V[rows.num_tokens :], rows.norms_V[: rows.num_tokens]
    if len(spare) < FEWEST_SPARE:
        return False
    low, high = float(spare.min()), float(spare.max())
    like_spare = ((named >= low) & (named <= high)).float().mean()
    return low <= norm <= high and float(like_spare) < RARE

"""Attention inside the documents of a packed batch, without a mask over whole rows.

Documents of similar length are gathered side by side and attended to as a causal batch,
so the work grows with the length of documents and not of rows. The padding behind a document is
never looked at: attention is causal, or goes back to a prefix.
"""

import torch
from torch import Tensor

from danlu.nn.attention import AttentionLayer
from danlu.nn.sequence import SequenceRule

SMALLEST_BUCKET_TOKENS = 32
LENGTH_STEP, DOCUMENT_STEP = 32, 4
MOST_PADDING = 2.0  # slots per token up to which all documents share one bucket


class PackedContext:
    """Attention inside each document, numbered as the family numbers a sequence of its own.

    Attributes:
        positions_BT: the positions of all tokens; [B, 2, T] in families with two coordinates.

    Args:
        tokens_BT: token ids.
        documents_BT: number of the document that each token belongs to; -1 is padding. Neighbours
            in a row have different numbers.
        rule: how the family numbers a sequence.
    """

    def __init__(self, tokens_BT: Tensor, documents_BT: Tensor, rule: SequenceRule) -> None:
        starts_M, lengths_M = _runs(documents_BT)
        self._buckets = [
            _Bucket(starts_M[chosen], lengths_M[chosen], tokens_BT.flatten(), rule)
            for chosen in _by_length(lengths_M)
        ]
        self._restore_N = _inverse(self._buckets, documents_BT.numel())
        positions_NC = torch.cat([bucket.flat_positions() for bucket in self._buckets])
        self.positions_BT = _as_rows(positions_NC[self._restore_N], tokens_BT.shape)

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d]."""
        flat = [heads.flatten(0, 1) for heads in (q_BTHd, k_BTKd, v_BTKd)]
        attended = [bucket.attend(layer, *flat) for bucket in self._buckets]
        flat_NHd = torch.cat(attended).index_select(0, self._restore_N)
        out_BTHd: Tensor = flat_NHd.unflatten(0, q_BTHd.shape[:2])
        return out_BTHd


class _Bucket:
    """Documents that are padded to one length, and where their tokens are in the flat batch."""

    def __init__(
        self, starts_M: Tensor, lengths_M: Tensor, tokens_N: Tensor, rule: SequenceRule
    ) -> None:
        # Kernels are prepared once per shape, so shapes are rounded up to a few.
        starts_M, lengths_M = _with_empty(starts_M), _with_empty(lengths_M)
        step_L = torch.arange(_rounded(int(lengths_M.max()), LENGTH_STEP), device=starts_M.device)
        self.real_ML = step_L < lengths_M[:, None]
        # Padding repeats the last token, which keeps every index inside the batch.
        last_M1 = (lengths_M[:, None] - 1).clamp(min=0)
        self.index_ML = starts_M[:, None] + torch.minimum(step_L, last_M1)
        numbering = rule.number(tokens_N[self.index_ML], self.real_ML)
        self._positions_ML = numbering.positions_BT
        self._dense = numbering.context(None)  # padding is behind what attends

    def flat_positions(self) -> Tensor:
        """Return the positions of all tokens, padding included, [M * L, coordinates]."""
        positions = self._positions_ML
        if positions.ndim == 2:
            return positions.reshape(-1, 1)
        return positions.transpose(1, 2).flatten(0, 1)

    def attend(self, layer: AttentionLayer, q_NHd: Tensor, k_NKd: Tensor, v_NKd: Tensor) -> Tensor:
        """Return the attended values of all documents, padding included, [M * L, H, d]."""
        index, shape = self.index_ML.flatten(), self.index_ML.shape
        q, k, v = (
            heads.index_select(0, index).unflatten(0, shape) for heads in (q_NHd, k_NKd, v_NKd)
        )
        return self._dense.attend(layer, q, k, v).flatten(0, 1)


def _with_empty(values_M: Tensor) -> Tensor:
    """Append zeros (documents without tokens) up to a round number of documents."""
    empty = _rounded(len(values_M), DOCUMENT_STEP) - len(values_M)
    return torch.nn.functional.pad(values_M, (0, empty))


def _rounded(number: int, step: int) -> int:
    return -(-number // step) * step


def _as_rows(positions_NC: Tensor, shape: torch.Size) -> Tensor:
    """Return flat positions as [B, T], or [B, 2, T] where there are two coordinates."""
    rows: Tensor = positions_NC.unflatten(0, shape)
    return rows[..., 0] if rows.shape[-1] == 1 else rows.transpose(1, 2)


def _runs(documents_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Return start and length of each run of one document in a row, in the flat batch."""
    num_tokens = documents_BT.shape[1]
    offsets_B1 = torch.arange(len(documents_BT), device=documents_BT.device)[:, None] * num_tokens
    keys_N = (documents_BT + 1 + offsets_B1 * (num_tokens + 1)).flatten()
    _, lengths_M = torch.unique_consecutive(keys_N, return_counts=True)
    return lengths_M.cumsum(0) - lengths_M, lengths_M


def _by_length(lengths_M: Tensor) -> list[Tensor]:
    """Return the documents in groups of similar length; one group where padding costs little."""
    padded = len(lengths_M) * int(lengths_M.max())
    if padded <= MOST_PADDING * int(lengths_M.sum()):
        return [torch.arange(len(lengths_M), device=lengths_M.device)]
    rounded_M = lengths_M.clamp(min=SMALLEST_BUCKET_TOKENS).float().log2().ceil()
    return [(rounded_M == size).nonzero().squeeze(1) for size in rounded_M.unique()]


def _inverse(buckets: list[_Bucket], num_tokens: int) -> Tensor:
    """Return, for each token of the flat batch, its place in the buckets laid end to end."""
    index = torch.cat([bucket.index_ML.flatten() for bucket in buckets])
    real = torch.cat([bucket.real_ML.flatten() for bucket in buckets])
    places = torch.arange(len(index), device=index.device)[real]
    return places.new_empty(num_tokens).scatter_(0, index[real], places)

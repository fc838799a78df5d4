"""Batches: packed rows as tensors, each document with its own targets."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from danlu.data.packing import PackedRow, TokenDocument
from danlu.errors import ShapeError

IGNORE = -100
PADDING = -1


@dataclass(frozen=True)
class Batch:
    """Packed rows, right-padded to one length; all tensors are int64.

    Attributes:
        tokens_BT: token ids; the padding id on padding.
        targets_BT: the id to predict after the token, or `IGNORE`: after a document's last token,
            where the next token is not to be learned, and on padding.
        documents_BT: the number of the document in its row, from 0; `PADDING` on padding.
        num_targets: how many targets are not `IGNORE`.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    num_targets: int

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return Batch(
            self.tokens_BT.to(device),
            self.targets_BT.to(device),
            self.documents_BT.to(device),
            self.num_targets,
        )


def collate(rows: Sequence[PackedRow], pad_id: int = 0, length: int | None = None) -> Batch:
    """Return the rows as one batch, padded at the row end only.

    Args:
        rows: B rows.
        pad_id: the token id on padding; nothing attends to it and it has no target.
        length: T; None for the longest row.

    Raises:
        ShapeError: if there is no row, or a row is longer than `length`.
    """
    longest = max((row.num_tokens for row in rows), default=0)
    width = longest if length is None else length
    if not rows or longest > width:
        raise ShapeError(
            f"Cannot collate {len(rows)} rows of up to {longest} tokens to the length {width}; "
            "expected at least one row, none longer. Pack with a smaller max_seq_len."
        )
    shape = (len(rows), width)
    arrays = [np.full(shape, value, np.int64) for value in (pad_id, IGNORE, PADDING)]
    for index, row in enumerate(rows):
        start = 0
        for number, document in enumerate(row.documents):
            end = start + len(document.ids)
            _write(document, number, [array[index, start:end] for array in arrays])
            start = end
    tokens, targets, documents = (torch.from_numpy(array) for array in arrays)
    return Batch(tokens, targets, documents, sum(row.num_targets for row in rows))


def _write(document: TokenDocument, number: int, views: list[np.ndarray]) -> None:
    """Fill the three views of a document's place in its row."""
    tokens, targets, documents = views
    tokens[:] = document.ids
    targets[:-1] = tokens[1:]
    if document.targets_mask is not None:
        targets[:-1][~np.asarray(document.targets_mask[1:], dtype=bool)] = IGNORE
    documents[:] = number

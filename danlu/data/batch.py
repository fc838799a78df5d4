"""Batches: packed rows as tensors, each document with its own targets."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from danlu.data.packing import IGNORE, PackedRow, TokenDocument
from danlu.errors import ShapeError

__all__ = ["IGNORE", "PADDING", "Batch", "collate"]

PADDING = -1


@dataclass(frozen=True)
class Batch:
    """Packed rows, right-padded to one length; all tensors are int64 but the float32 weights.

    Attributes:
        tokens_BT: token ids; the padding id on padding.
        targets_BT: the id to predict after the token, or `IGNORE`: after a document's last token,
            where the next token is not to be learned, and on padding.
        documents_BT: the number of the document in its row, from 0; `PADDING` on padding.
        num_targets: how many targets are not `IGNORE`; with weights, the sum of their weights.
        weights_BT: how much each target counts; None: all 1.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    num_targets: int | float
    weights_BT: Tensor | None = None

    def to(self, device: torch.device | str) -> "Batch":
        """Return the batch with its tensors on `device`."""
        return Batch(
            self.tokens_BT.to(device),
            self.targets_BT.to(device),
            self.documents_BT.to(device),
            self.num_targets,
            None if self.weights_BT is None else self.weights_BT.to(device),
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
        for number, (place, document) in enumerate(_places(row)):
            _write(document, number, [array[index, place] for array in arrays])
    tokens, targets, documents = (torch.from_numpy(array) for array in arrays)
    num_targets = sum(row.num_targets for row in rows)
    return Batch(tokens, targets, documents, num_targets, _weights(rows, shape))


def _places(row: PackedRow) -> Iterator[tuple[slice, TokenDocument]]:
    """Yield the documents of a row, each with its place in it."""
    start = 0
    for document in row.documents:
        end = start + len(document.ids)
        yield slice(start, end), document
        start = end


def _write(document: TokenDocument, number: int, views: list[np.ndarray]) -> None:
    """Fill the three views of a document's place in its row."""
    tokens, targets, documents = views
    tokens[:] = document.ids
    targets[:-1] = (document.ids if document.labels is None else document.labels)[1:]
    documents[:] = number


def _weights(rows: Sequence[PackedRow], shape: tuple[int, int]) -> Tensor | None:
    """Return the weight of each target, None if no document has weights."""
    if all(document.weights is None for row in rows for document in row.documents):
        return None
    weights_BT = np.ones(shape, np.float32)
    for index, row in enumerate(rows):
        for place, document in _places(row):
            if document.weights is not None:
                weights_BT[index, place][:-1] = document.weights[1:]
    return torch.from_numpy(weights_BT)

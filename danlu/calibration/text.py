"""Calibration text as a model sees it: rows of equal length together, never padded."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.data.calibration import TokenRow
from danlu.errors import DataError, bullet_list
from danlu.models.decoder import Decoder
from danlu.nn.attention import AttentionContext
from danlu.nn.positions import Rotation

BATCH_TOKENS = 4096


@dataclass(frozen=True)
class Batch:
    """Rows of one length.

    Attributes:
        rows: what each is called: its number, from 1, and where it comes from, if it knows.
        ids_BT: their tokens.
    """

    rows: tuple[str, ...]
    ids_BT: Tensor

    def seen(self, decoder: Decoder, x_BTD: Tensor) -> tuple[Rotation, AttentionContext]:
        """Return where the tokens stand and what they see, as a block wants it."""
        ids_BT = self.ids_BT.to(x_BTD.device)
        positions_BT, attn = decoder.sequence_rule().context(ids_BT, None, None)
        return decoder.model.position_scheme.rotation(positions_BT, x_BTD.dtype), attn

    def row_of(self, place: int) -> str:
        """Return the row that a place among the batch's tokens is in."""
        return self.rows[place // self.ids_BT.shape[1]]

    def row_names(self) -> str:
        """Return all rows."""
        return self.rows[0] if len(self.rows) == 1 else f"one of {', '.join(self.rows)}"


def batches(rows: Sequence[Sequence[int]], max_tokens: int = BATCH_TOKENS) -> list[Batch]:
    """Return rows of tokens as batches; lengths in the order in which they first occur."""
    by_length: dict[int, list[int]] = {}
    for number, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(number)
    found = []
    for length, numbers in by_length.items():
        size = max(1, max_tokens // length)
        for start in range(0, len(numbers), size):
            chosen = numbers[start : start + size]
            names = tuple(_name(i, rows[i]) for i in chosen)
            found.append(Batch(names, torch.tensor([list(rows[i]) for i in chosen])))
    return found


def _name(number: int, row: Sequence[int]) -> str:
    origin = f" ({row.origin})" if isinstance(row, TokenRow) else ""
    return f"row {number + 1}{origin}"


def check_token_rows(rows: Sequence[Sequence[int]], vocab_size: int) -> None:
    """Check that every row has tokens, and that the model knows them.

    Raises:
        DataError: with every row that is wrong.
    """
    problems = []
    for number, row in enumerate(rows, start=1):
        if not row:
            problems.append(f"row {number} has no token")
        elif not 0 <= min(row) <= max(row) < vocab_size:
            wrong = next(token for token in row if not 0 <= token < vocab_size)
            problems.append(f"row {number} has the token {wrong}")
    if problems:
        raise DataError(
            f"Calibration text does not fit the model:{bullet_list(problems)}\nExpected rows of "
            f"tokens from 0 to {vocab_size - 1}; encode the text with the tokenizer of this model."
        )

"""How a family numbers the tokens of a sequence, and which of them every other token sees.

Most families count from the first real token and are causal. Some number by slot, some have two
coordinates per token, and prefix language models let a whole prompt see itself.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from danlu.errors import ShapeError
from danlu.nn.contexts import DenseContext, padded_context


@dataclass(frozen=True)
class Numbering:
    """The places of the tokens of a batch.

    Attributes:
        positions_BT: positions [B, T]; [B, 2, T] in families with two coordinates.
        prefix_end_B: slots before it are seen by every token of the row; None: causal.
    """

    positions_BT: Tensor
    prefix_end_B: Tensor | None = None

    def context(self, attention_mask_BT: Tensor | None) -> DenseContext:
        """Return the attention of these tokens; padding that is behind a text needs no mask."""
        return padded_context(attention_mask_BT, self.positions_BT, self.prefix_end_B)


class SequenceRule(Protocol):
    """How a family numbers tokens whose positions nobody gave."""

    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return the numbering of prompts, padded anywhere; padding gets any valid position."""

    def following(self, positions_BT: Tensor) -> Tensor:
        """Return the position of the token after each of `positions_BT`."""

    def moved(self, positions_BT: Tensor, num_tokens: int | Tensor) -> Tensor:
        """Return the positions of the same tokens with `num_tokens` (or [B, T]) more in front."""

    def context(
        self, input_ids_BT: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor, DenseContext]:
        """Return positions and attention of a whole batch, as the published model takes them."""


@dataclass(frozen=True)
class CountedPositions:
    """Causal families: positions count the real tokens from 0, unless they are given."""

    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return the numbering of prompts; padding is at 0."""
        return Numbering(counted(input_ids_BT, attention_mask_BT))

    def following(self, positions_BT: Tensor) -> Tensor:
        """Return the next positions."""
        return positions_BT + 1

    def moved(self, positions_BT: Tensor, num_tokens: int | Tensor) -> Tensor:
        """Return positions that many further on."""
        return positions_BT + num_tokens

    def context(
        self, input_ids_BT: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor, DenseContext]:
        """Return positions and attention of a whole batch."""
        check_mask(input_ids_BT, attention_mask)
        if position_ids is None:
            position_ids = self.number(input_ids_BT, attention_mask).positions_BT
        return position_ids, padded_context(attention_mask, position_ids)


def counted(input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Tensor:
    """Return the number of real tokens before each token [B, T]; 0 on padding in front."""
    if attention_mask_BT is None:
        return slots_like(input_ids_BT)
    return (attention_mask_BT.long().cumsum(-1) - 1).clamp(min=0)


def slots_like(input_ids_BT: Tensor) -> Tensor:
    """Return the slot of each token [B, T]: its place in the row, padding included."""
    count = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
    return count.expand_as(input_ids_BT)


def check_mask(input_ids_BT: Tensor, attention_mask: Tensor | None) -> None:
    """Check that a padding mask has the shape of the tokens.

    Raises:
        ShapeError: if it has not.
    """
    if attention_mask is not None and attention_mask.shape != input_ids_BT.shape:
        raise ShapeError(
            f"attention_mask is {list(attention_mask.shape)}, but input_ids is "
            f"{list(input_ids_BT.shape)}. Expected one number per token, nonzero for real ones."
        )

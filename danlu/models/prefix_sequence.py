"""Numbering of prefix language models: a prompt that sees itself, then causal text, in blocks.

Source: GLM (arXiv:2103.10360, sec. 2.2). Each token has two coordinates [B, 2, T]: its position,
and its place in the generated block, 0 in the prompt. Generated tokens all stand at the position of
the mask that they fill.
"""

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from danlu.errors import ShapeError
from danlu.nn.contexts import DenseContext, padded_context
from danlu.nn.sequence import Numbering, check_mask


class PrefixSequence(ABC):
    """What ChatGLM-6B and GLM share."""

    @abstractmethod
    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return positions [B, 2, T] and the end of each prompt, as the ids tell."""

    @abstractmethod
    def explicit(self, attention_mask: Tensor, num_tokens: int) -> Tensor:
        """Return visibility [B, T, T] from a mask of another form than one number per token.

        Raises:
            ShapeError: if the family's published code takes no such mask.
        """

    def following(self, positions_B2T: Tensor) -> Tensor:
        """Return the next positions: on in the block, or on in text that has no block."""
        position_BT, block_BT = positions_B2T[:, 0], positions_B2T[:, 1]
        inside_BT = (block_BT > 0).long()
        return torch.stack((position_BT + 1 - inside_BT, block_BT + inside_BT), dim=1)

    def moved(self, positions_B2T: Tensor, num_tokens: int | Tensor) -> Tensor:
        """Return positions that many further on; places in the block stay."""
        return torch.stack((positions_B2T[:, 0] + num_tokens, positions_B2T[:, 1]), dim=1)

    def context(
        self, input_ids_BT: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor, DenseContext]:
        """Return positions and attention of a whole batch.

        The prompt ends where the ids say so, or, with given positions, where a block begins.
        """
        simple = attention_mask is None or attention_mask.shape == input_ids_BT.shape
        numbering = self.number(input_ids_BT, attention_mask if simple else None)
        positions_B2T, prefix_end_B = numbering.positions_BT, numbering.prefix_end_B
        if position_ids is not None:
            _check_positions(input_ids_BT, position_ids)
            positions_B2T, prefix_end_B = position_ids, first_slot(position_ids[:, 1] > 0)
        position_BT = positions_B2T[:, 0]
        if attention_mask is not None and not simple:
            visible_BTS = self.explicit(attention_mask, input_ids_BT.shape[1])
            return positions_B2T, DenseContext(visible_BTS, position_BT, position_BT)
        check_mask(input_ids_BT, attention_mask)
        return positions_B2T, padded_context(attention_mask, position_BT, prefix_end_B)


def first_slot(found_BT: Tensor) -> Tensor:
    """Return the first slot of each row where `found_BT` is true [B]; 0 where none is."""
    return found_BT.long().argmax(-1)


def with_self(visible_BTT: Tensor) -> Tensor:
    """Return a visibility in which every token sees itself, so that no softmax is empty."""
    itself_TT = torch.eye(visible_BTT.shape[-1], dtype=torch.bool, device=visible_BTT.device)
    return visible_BTT | itself_TT


def block_positions(
    position_BT: Tensor, begin_B: Tensor, has_block_B: Tensor, mask_position_B: Tensor
) -> Tensor:
    """Return both coordinates [B, 2, T] of rows whose block begins at slot `begin_B`.

    Args:
        position_BT: positions in the prompt.
        begin_B: slot of the first token of the block.
        has_block_B: whether the row has one; rows without keep `position_BT`.
        mask_position_B: position of the mask that the block fills.
    """
    slots_T = torch.arange(position_BT.shape[1], device=position_BT.device)
    inside_BT = (slots_T >= begin_B[:, None]) & has_block_B[:, None]
    block_BT = torch.where(inside_BT, slots_T - begin_B[:, None] + 1, 0)
    return torch.stack(
        (torch.where(inside_BT, mask_position_B[:, None], position_BT), block_BT), dim=1
    )


def _check_positions(input_ids_BT: Tensor, position_ids: Tensor) -> None:
    batch, num_tokens = input_ids_BT.shape
    if position_ids.shape != (batch, 2, num_tokens):
        raise ShapeError(
            f"position_ids is {list(position_ids.shape)}; this family has two coordinates per "
            f"token: expected {[batch, 2, num_tokens]} (position, block position)."
        )

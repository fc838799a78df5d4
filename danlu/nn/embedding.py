"""What the embedding adds to tokens: learned positions, in families that have them."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.errors import CapacityError


class NoPositions(nn.Module):
    """Embeddings as they are: positions act in attention."""

    def forward(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """Return `x_BTD`."""
        return x_BTD


class LearnedPositions(nn.Module):
    """One learned vector per position, added to the token's (arXiv:1706.03762, sec. 3.5).

    Args:
        max_seq_len: positions there are.
        hidden_size: of each vector.
        offset: rows of the table in front of position 0 (OPT has 2).
    """

    def __init__(self, max_seq_len: int, hidden_size: int, *, offset: int = 0) -> None:
        super().__init__()
        self.offset = offset
        self.weight = nn.Parameter(torch.empty(max_seq_len + offset, hidden_size))

    def forward(self, x_BTD: Tensor, positions_BT: Tensor) -> Tensor:
        """Return the embeddings with their positions added.

        Raises:
            CapacityError: on the CPU, if a position is beyond the table.
        """
        check_positions(positions_BT, len(self.weight) - self.offset)
        return x_BTD + F.embedding(positions_BT + self.offset, self.weight)


def check_positions(positions: Tensor, num_positions: int) -> None:
    """Check that learned positions exist (not on accelerators, which would have to wait for it).

    Raises:
        CapacityError: if one does not.
    """
    if positions.device.type != "cpu" or not positions.numel():
        return
    highest = int(positions.max())
    if highest >= num_positions:
        raise CapacityError(
            f"The model learned {num_positions} positions, but position {highest} is asked for. "
            "Expected a shorter sequence: this family cannot go beyond its context."
        )

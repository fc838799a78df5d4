"""Token embeddings, and what some families add to them: learned positions."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.errors import CapacityError


class TokenEmbedding(nn.Module):
    """One learned vector per token.

    Torch's own embedding draws random numbers when it is made; on the meta device that imports
    torch's compiler, which takes longer than opening a small model.
    """

    def __init__(self, vocab_size: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab_size, hidden_size))

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the vectors it gives."""
        return self.weight.dtype

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the vectors [B, T, D] of the tokens."""
        return F.embedding(tokens_BT, self.weight)


class StoredEmbedding(TokenEmbedding):
    """An embedding for inference that stays as it is stored; vectors are cast when looked up.

    Args:
        weight_VD: as in the file, mapped from it.
        dtype: of the vectors it gives.
    """

    def __init__(self, weight_VD: Tensor, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.weight = nn.Parameter(weight_VD)
        self._dtype = dtype

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of the vectors it gives."""
        return self._dtype

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the vectors [B, T, D] of the tokens."""
        return super().forward(tokens_BT).to(self._dtype)


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

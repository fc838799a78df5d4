"""Single rows of embedding and head that are trained in place of the base's.

Memory is that of the rows: the matrices of the base take neither gradients nor optimizer states.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from danlu.adapters.wrappers import (
    AdaptedEmbedding,
    AdaptedLinear,
    original,
    original_embedding,
    stored_weight,
)
from danlu.nn.embedding import TokenEmbedding
from danlu.nn.linear import Linear, LinearLike


class RowsEmbedding(AdaptedEmbedding):
    """The vectors of the base, but for some tokens, whose vectors are trained.

    Args:
        base: the embedding.
        ids_n: the tokens, in ascending order.
        rows_nD: their vectors, float32 masters; a tied head shares them.
    """

    ids_n: Tensor

    def __init__(self, base: TokenEmbedding, ids_n: Tensor, rows_nD: nn.Parameter) -> None:
        super().__init__(base)
        self.register_buffer("ids_n", ids_n, persistent=False)
        self.rows = rows_nD

    def forward(self, tokens_BT: Tensor) -> Tensor:
        """Return the vectors [B, T, D] of the tokens."""
        out: Tensor = self.base(tokens_BT)
        place_BT = torch.searchsorted(self.ids_n, tokens_BT).clamp(max=len(self.ids_n) - 1)
        is_trained_BT = self.ids_n[place_BT] == tokens_BT
        rows_BTD = F.embedding(place_BT, self.rows).to(out.dtype)
        plain = original_embedding(self)
        if plain is not self.base:  # what the wrappers under this one add stays
            rows_BTD = out + (rows_BTD - plain(tokens_BT))
        return torch.where(is_trained_BT[..., None], rows_BTD, out)

    def change(self, weight_VD: Tensor) -> Tensor:
        """Return the float32 change of the weight: nothing but in the rows."""
        return _row_change(weight_VD, self.ids_n, self.rows)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [self.rows]


class SplitHead(NamedTuple):
    """A head as a frozen matrix and what is added to some of its rows.

    Attributes:
        weight_VD: of the base.
        ids_n: the rows.
        change_nD: what is added to them; the trained rows get their gradient through it.
    """

    weight_VD: Tensor
    ids_n: Tensor
    change_nD: Tensor


class RowsLinear(AdaptedLinear):
    """The products of the base, but for some outputs, whose rows are trained.

    What the rows have become is added to the products, so that fresh rows change no bit of them.

    Args:
        base: the head.
        ids_n: the outputs.
        rows_nD: their rows, float32 masters; a tied embedding shares them.
    """

    ids_n: Tensor
    plain_nD: Tensor

    def __init__(self, base: LinearLike, ids_n: Tensor, rows_nD: nn.Parameter) -> None:
        super().__init__(base)
        self.register_buffer("ids_n", ids_n, persistent=False)
        plain_nD = stored_weight(original(base))[ids_n].detach().float()
        self.register_buffer("plain_nD", plain_nD, persistent=False)
        self.rows = rows_nD

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits [..., V]."""
        out: Tensor = self.base(x)
        change_nD = self.row_change().to(x.dtype)
        return out.index_add(-1, self.ids_n, F.linear(x, change_nD).to(out.dtype))

    def split(self) -> SplitHead | None:
        """Return base and change apart, for a loss that never holds all logits.

        None where the base is no plain matrix.
        """
        if type(self.base) is not Linear or self.base.bias is not None:
            return None
        return SplitHead(self.base.weight, self.ids_n, self.row_change())

    def row_change(self) -> Tensor:
        """Return what is added to the rows [n, D] that the base multiplies by, in float32."""
        base = original(self)
        if isinstance(base, Linear):
            return base.effective(self.rows) - base.effective(self.plain_nD)
        return self.rows - self.plain_nD

    def change(self, weight_OI: Tensor) -> Tensor:
        """Return the float32 change of the weight: nothing but in the rows."""
        return _row_change(weight_OI, self.ids_n, self.rows)

    def adapter_parameters(self) -> list[nn.Parameter]:
        """Return what is trained in this wrapper."""
        return [self.rows]


def _row_change(weight_VD: Tensor, ids_n: Tensor, rows_nD: Tensor) -> Tensor:
    changed_nD = rows_nD.float() - weight_VD[ids_n]
    return torch.zeros_like(weight_VD).index_copy(0, ids_n, changed_nD)

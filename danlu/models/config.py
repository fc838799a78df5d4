"""What a decoder is built from: sizes, and the parts a family chose."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from danlu.nn.positions import PositionScheme

NormFactory = Callable[[int], nn.Module]  # hidden_size -> norm
MlpFactory = Callable[[int, int], nn.Module]  # hidden_size, intermediate_size -> mlp


class SequenceRule(Protocol):
    """How a family numbers tokens whose positions nobody gave."""

    def positions(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Tensor:
        """Return the positions of a prompt; padding gets any valid value."""


@dataclass(frozen=True)
class CountedPositions:
    """Positions count the real tokens from 0; padding is at 0."""

    def positions(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Tensor:
        """Return the positions [B, T]."""
        if attention_mask_BT is None:
            count = torch.arange(input_ids_BT.shape[1], device=input_ids_BT.device)
            return count.expand_as(input_ids_BT)
        return (attention_mask_BT.long().cumsum(-1) - 1).clamp(min=0)


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes in the published spelling, and parts as factories (composition instead of flags)."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_seq_len: int
    norm: NormFactory
    mlp: MlpFactory
    position_scheme: PositionScheme
    sequence_rule: SequenceRule = CountedPositions()
    embedding_norm: NormFactory | None = None
    qkv_bias: bool = False
    output_bias: bool = False
    tie_word_embeddings: bool = False

"""Trained keys and values in front of every text: what prefix and prompt tuning come to.

A decoder asks its `Prefix` for what stands `InFront` and lets that change its family's rule: how
tokens are numbered, and what they see. Plain, packed and cached attention follow the rule, so they
need to know nothing of it.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor, nn

from danlu.nn.attention import AttentionContext, AttentionLayer
from danlu.nn.cache import KVCache
from danlu.nn.contexts import DenseContext
from danlu.nn.scaled_attention import causal_mask
from danlu.nn.sequence import Numbering, SequenceRule
from danlu.nn.stores import KVShape


@dataclass(frozen=True)
class InFront:
    """What every token sees in front of its own text; by default nothing.

    Attributes:
        keys_values: keys [P, K, d] and values [P, K, value_dim] of each layer, rotated already.
        first_position: where the text behind them begins.
    """

    keys_values: Sequence[tuple[Tensor, Tensor]] = ()
    first_position: int = 0

    @property
    def num_tokens(self) -> int:
        """P: the slots that it takes in front of each text."""
        return len(self.keys_values[0][0]) if self.keys_values else 0

    def positions(self) -> Tensor:
        """Return the positions [P] of the keys, for linear biases; they end before the text."""
        end = self.first_position
        return torch.arange(end - self.num_tokens, end, device=self.keys_values[0][0].device)

    def rule(self, rule: SequenceRule) -> SequenceRule:
        """Return how tokens are numbered and what they see behind this."""
        return PrefixedRule(rule, self) if self.keys_values else rule

    def fill(self, cache: KVCache) -> None:
        """Put it into the first slots of every row of an empty cache."""
        if self.keys_values:
            heads = [(_as_row(keys), _as_row(values)) for keys, values in self.keys_values]
            cache.preload(heads, self.positions()[None])


def _as_row(heads_PKd: Tensor) -> Tensor:
    """Return heads as they lie in a cache: [1, K, P, d], the same for every row."""
    return heads_PKd.transpose(0, 1)[None]


NOTHING = InFront()


class Prefixable(Protocol):
    """What a prefix asks of the decoder that it stands in front of."""

    prefix: "Prefix | None"

    def kv_shapes(self) -> list[KVShape]:
        """Return what each layer keeps per token."""

    @property
    def dtype(self) -> torch.dtype:
        """The dtype it computes in."""

    @property
    def device(self) -> torch.device:
        """Where it is."""

    @property
    def vocab_size(self) -> int:
        """Tokens that have embeddings."""

    @property
    def max_text_tokens(self) -> int:
        """Tokens that a text may have."""

    def text_position(self, num_tokens: int) -> int:
        """Return where a text begins behind so many trained keys and values."""

    def token_embeddings(self, tokens_P: Tensor) -> Tensor:
        """Return the embeddings [P, D] of tokens."""

    def run_virtual(self, embedded_PD: Tensor, attn: AttentionContext) -> None:
        """Run a text of virtual tokens, given by their embeddings, for what `attn` gets of it."""


class Prefix(nn.Module, ABC):
    """The trained module behind an `InFront`.

    Attributes:
        num_tokens: virtual tokens in front of every text.
        first_position: where the text behind them begins: behind the virtual tokens, or at 0.
    """

    num_tokens: int
    first_position: int

    @abstractmethod
    def in_front(self, decoder: Prefixable) -> InFront:
        """Return keys and values in the decoder's dtype; gradients reach the parameters."""


class PrefixedContext(DenseContext):
    """Attention of a text's tokens over keys and values in front of it, too.

    Args:
        text: who sees whom in the text.
        in_front: what every token sees besides.
    """

    def __init__(self, text: DenseContext, in_front: InFront) -> None:
        queries, keys = text.query_positions_BT, text.key_positions_BS
        num_tokens = in_front.num_tokens
        visible_BTS = text.visible_BTS
        if visible_BTS is None:
            visible_BTS = causal_mask(queries.shape[-1], keys.shape[-1], keys.device)
        positions = in_front.positions().expand(*keys.shape[:-1], -1)
        super().__init__(
            nn.functional.pad(visible_BTS, (num_tokens, 0), value=True),
            queries,
            torch.cat((positions, keys), dim=-1),
        )
        self._keys_values = in_front.keys_values

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d]."""
        keys_PKd, values_PKd = self._keys_values[layer.index]
        k_BSKd, v_BSKd = _with_front(keys_PKd, k_BTKd), _with_front(values_PKd, v_BTKd)
        return super().attend(layer, q_BTHd, k_BSKd, v_BSKd)


def _with_front(front_PKd: Tensor, heads_BTKd: Tensor) -> Tensor:
    front_BPKd = front_PKd.expand(len(heads_BTKd), -1, -1, -1)
    return torch.cat((front_BPKd, heads_BTKd), dim=1)


@dataclass(frozen=True)
class PrefixedNumbering(Numbering):
    """Places of tokens that see something in front of their text."""

    in_front: InFront = NOTHING

    def context(self, attention_mask_BT: Tensor | None) -> DenseContext:
        """Return the attention of these tokens over themselves and what is in front."""
        return PrefixedContext(super().context(attention_mask_BT), self.in_front)


@dataclass(frozen=True)
class PrefixedRule:
    """A family's rule behind what is in front: positions move on, and every token sees it.

    The masks of prefix language models stay as they are: the ids of a text tell them.
    """

    rule: SequenceRule
    in_front: InFront

    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return the numbering of prompts."""
        numbering = self.rule.number(input_ids_BT, attention_mask_BT)
        positions_BT = self._behind(numbering.positions_BT, attention_mask_BT)
        return PrefixedNumbering(positions_BT, numbering.prefix_end_B, self.in_front)

    def following(self, positions_BT: Tensor) -> Tensor:
        """Return the next positions."""
        return self.rule.following(positions_BT)

    def moved(self, positions_BT: Tensor, num_tokens: int | Tensor) -> Tensor:
        """Return positions that many further on."""
        return self.rule.moved(positions_BT, num_tokens)

    def context(
        self, input_ids_BT: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor, DenseContext]:
        """Return positions and attention of a whole batch.

        Given positions are those of the text alone, and move on like counted ones.
        """
        positions_BT, text = self.rule.context(input_ids_BT, attention_mask, position_ids)
        # Linear biases go by distances: what is in front ends where the text begins.
        context = PrefixedContext(text, replace(self.in_front, first_position=0))
        counted = attention_mask if position_ids is None else None
        return self._behind(positions_BT, counted), context

    def _behind(self, positions_BT: Tensor, attention_mask: Tensor | None) -> Tensor:
        """Return positions behind what is in front; padding between the two takes no place."""
        first = self.in_front.first_position
        if first == 0 or attention_mask is None or attention_mask.ndim != 2:
            return self.rule.moved(positions_BT, first)
        place_BT = positions_BT if positions_BT.ndim == 2 else positions_BT[:, 0]
        begin_B1 = place_BT.gather(1, attention_mask.long().argmax(-1, keepdim=True))
        return self.rule.moved(positions_BT, first - torch.minimum(place_BT, begin_B1))


class KeyValueRecorder:
    """Causal attention over one text that remembers its keys and values."""

    def __init__(self, num_tokens: int, device: torch.device) -> None:
        self._of_layer: dict[int, tuple[Tensor, Tensor]] = {}
        positions_1T = torch.arange(num_tokens, device=device)[None]
        self._dense = DenseContext(None, positions_1T, positions_1T)

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [1, T, H, d]; a layer that is recomputed asks again."""
        self._of_layer[layer.index] = (k_BTKd[0], v_BTKd[0])
        return self._dense.attend(layer, q_BTHd, k_BTKd, v_BTKd)

    def keys_values(self) -> list[tuple[Tensor, Tensor]]:
        """Return the keys [T, K, d] and values [T, K, value_dim] of all layers, in order."""
        return [self._of_layer[index] for index in sorted(self._of_layer)]

"""Attention without a cache that sees keys and values as an 8-bit cache would keep them.

Training, scoring and a plain forward pass go through a family's rule, so the rule is what rounds.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from danlu.nn.attention import AttentionLayer
from danlu.nn.cache_rounding import CacheRounding
from danlu.nn.contexts import DenseContext
from danlu.nn.prefix import InFront
from danlu.nn.sequence import Numbering, SequenceRule

KeysValues = Sequence[tuple[Tensor, Tensor]]


class RoundedContext(DenseContext):
    """Attention of a text over its keys and values as they are rounded.

    Args:
        text: who sees whom; what is in front of it is rounded already.
        rounding: of keys and values.
    """

    def __init__(self, text: DenseContext, rounding: CacheRounding) -> None:
        super().__init__(text.visible_BTS, text.query_positions_BT, text.key_positions_BS)
        self._text = text
        self._rounding = rounding

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d]."""
        k_BTKd, v_BTKd = self._rounding.rounded(layer.index, k_BTKd, v_BTKd)
        return self._text.attend(layer, q_BTHd, k_BTKd, v_BTKd)


@dataclass(frozen=True, kw_only=True)
class RoundedNumbering(Numbering):
    """Places of tokens whose keys and values are rounded."""

    inner: Numbering
    rounding: CacheRounding

    def context(self, attention_mask_BT: Tensor | None) -> DenseContext:
        """Return the attention of these tokens over themselves."""
        return RoundedContext(self.inner.context(attention_mask_BT), self.rounding)


@dataclass(frozen=True)
class RoundedRule:
    """A rule whose attention sees rounded keys and values; numbers and masks stay as they are."""

    rule: SequenceRule
    rounding: CacheRounding

    def number(self, input_ids_BT: Tensor, attention_mask_BT: Tensor | None) -> Numbering:
        """Return the numbering of prompts."""
        inner = self.rule.number(input_ids_BT, attention_mask_BT)
        places = inner.positions_BT, inner.prefix_end_B
        return RoundedNumbering(*places, inner=inner, rounding=self.rounding)

    def following(self, positions_BT: Tensor) -> Tensor:
        """Return the next positions."""
        return self.rule.following(positions_BT)

    def moved(self, positions_BT: Tensor, num_tokens: int | Tensor) -> Tensor:
        """Return positions that many further on."""
        return self.rule.moved(positions_BT, num_tokens)

    def context(
        self, input_ids_BT: Tensor, attention_mask: Tensor | None, position_ids: Tensor | None
    ) -> tuple[Tensor, DenseContext]:
        """Return positions and attention of a whole batch."""
        positions_BT, text = self.rule.context(input_ids_BT, attention_mask, position_ids)
        return positions_BT, RoundedContext(text, self.rounding)


def rounded_rule(rule: SequenceRule, in_front: InFront, rounding: CacheRounding) -> SequenceRule:
    """Return a family's rule behind what is in front, all keys and values rounded."""
    front = replace(in_front, keys_values=_rounded(in_front.keys_values, rounding))
    return RoundedRule(front.rule(rule), rounding)


def _rounded(keys_values: KeysValues, rounding: CacheRounding) -> KeysValues:
    """Return keys and values [P, K, d] of each layer as they would be read again."""
    rounded = []
    for layer, (keys, values) in enumerate(keys_values):
        k, v = rounding.rounded(layer, keys[None], values[None])
        rounded.append((k[0], v[0]))
    return rounded

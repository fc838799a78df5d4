"""Which tokens a query sees: the tokens at hand behind an explicit mask, padded batches, prefixes.

All of it is said in slots (places in a row, padding included) except linear biases, which go by
the positions that the family counts, and windows, in which padding takes no place.
"""

import math

import torch
from torch import Tensor

from danlu.nn.attention import AttentionLayer
from danlu.nn.scaled_attention import causal_mask, scaled_attention


class DenseContext:
    """Attention over the tokens at hand, with an explicit mask or plainly causal.

    Attributes:
        visible_BTS: True where query t may see key s; None: causal, s <= t. The queries are the
            last T of S tokens.
        query_positions_BT: positions for linear biases.
        key_positions_BS: likewise for the keys.
    """

    def __init__(
        self, visible_BTS: Tensor | None, query_positions_BT: Tensor, key_positions_BS: Tensor
    ) -> None:
        self.visible_BTS = visible_BTS
        self.query_positions_BT = query_positions_BT
        self.key_positions_BS = key_positions_BS
        self._masks: dict[object, Tensor | None] = {}

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d]."""
        q, k, v = q_BTHd.transpose(1, 2), k_BTKd.transpose(1, 2), v_BTKd.transpose(1, 2)
        return scaled_attention(q, k, v, layer.scale, self.mask(layer, q.dtype)).transpose(1, 2)

    def mask(self, layer: AttentionLayer, dtype: torch.dtype) -> Tensor | None:
        """Return the layer's mask [B, 1 or H, T, S] (boolean or additive); None: plainly causal."""
        key = (layer.slopes, layer.window, dtype)
        if key not in self._masks:
            self._masks[key] = self._build_mask(layer, dtype)
        return self._masks[key]

    def _build_mask(self, layer: AttentionLayer, dtype: torch.dtype) -> Tensor | None:
        visible_BTS = self._windowed(layer.window)
        if layer.slopes is None:
            return None if visible_BTS is None else visible_BTS[:, None]
        if visible_BTS is None:
            visible_BTS = self._causal()
        return self._bias(layer.slopes, visible_BTS).to(dtype)

    def _windowed(self, window: int | None) -> Tensor | None:
        """Return what is visible and among the last `window` tokens, the query itself counted."""
        num_queries, num_keys = self.query_positions_BT.shape[-1], self.key_positions_BS.shape[-1]
        if window is None or num_keys <= window:
            return self.visible_BTS
        visible_BTS = self._causal() if self.visible_BTS is None else self.visible_BTS
        # What the last query sees is real: padding in front of a text takes no place.
        places_BS = visible_BTS[:, -1].cumsum(-1)
        queries_BT1 = places_BS[:, num_keys - num_queries :, None]
        return visible_BTS & (places_BS[:, None] > queries_BT1 - window)

    def _causal(self) -> Tensor:
        queries, keys = self.query_positions_BT, self.key_positions_BS
        return causal_mask(queries.shape[-1], keys.shape[-1], queries.device)

    def _bias(self, slopes: tuple[float, ...], visible_BTS: Tensor) -> Tensor:
        queries, keys = self.query_positions_BT, self.key_positions_BS
        distance_B1TS = (keys[:, None, :] - queries[:, :, None])[:, None].float()
        slope_H11 = torch.tensor(slopes, device=queries.device)[:, None, None]
        return (slope_H11 * distance_B1TS).masked_fill(~visible_BTS[:, None], -math.inf)


def padded_context(
    attention_mask_BT: Tensor | None, positions_BT: Tensor, prefix_end_B: Tensor | None = None
) -> DenseContext:
    """Return attention over a batch padded anywhere; padding sees only itself.

    Args:
        attention_mask_BT: nonzero for real tokens; None: all are.
        positions_BT: positions for linear biases.
        prefix_end_B: slots before it are seen by every token of the row; None: causal.
    """
    num_tokens = positions_BT.shape[-1]
    return DenseContext(
        visible_slots(attention_mask_BT, prefix_end_B, 0, num_tokens), positions_BT, positions_BT
    )


def visible_slots(
    attention_mask_BS: Tensor | None, prefix_end_B: Tensor | None, start: int, end: int
) -> Tensor | None:
    """Return visibility [B, T, S] of the slots `start` to `end` over all slots before `end`.

    A token sees itself, what is real and before it, and what is real and of its row's prefix.

    Args:
        attention_mask_BS: nonzero for real tokens, over the slots before `end`; None: all are.
        prefix_end_B: end of each row's prefix, in slots; None: no row has one.
        start: first slot that asks.
        end: one past the last.

    Returns:
        None where plain causality says it all.
    """
    padded = attention_mask_BS is not None and not bool(attention_mask_BS.all())
    if not padded and prefix_end_B is None:
        return None
    given = attention_mask_BS if prefix_end_B is None else prefix_end_B
    assert given is not None
    slots_S = torch.arange(end, device=given.device)
    visible_BTS = causal_mask(end - start, end, given.device)
    if prefix_end_B is not None:
        visible_BTS = visible_BTS | (slots_S < prefix_end_B[:, None])[:, None, :]
    if attention_mask_BS is not None:
        visible_BTS = visible_BTS & attention_mask_BS.bool()[:, None, :]
    itself_TS = slots_S == torch.arange(start, end, device=given.device)[:, None]
    return visible_BTS | itself_TS  # no row of the softmax is empty

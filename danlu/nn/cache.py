"""Keys and values of tokens already seen, in one contiguous block per layer.

Rows of a batch share the slot axis: a batch is left-padded so that every row ends at the same slot.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.errors import CapacityError
from danlu.nn.attention import AttentionLayer, DenseContext, causal_mask, scaled_attention


class KVCache:
    """Room for the keys and values of `max_tokens` slots of each row.

    Args:
        kv_shapes: (num_kv_heads, head_dim) of each layer.
        batch_size: rows.
        max_tokens: slots per row, prompt, padding and answer together.
        dtype: of keys and values.
        device: where they are kept.
    """

    def __init__(
        self,
        kv_shapes: Sequence[tuple[int, int]],
        batch_size: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device | str,
    ) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        self._keys = [
            torch.empty(batch_size, heads, max_tokens, dim, dtype=dtype, device=device)
            for heads, dim in kv_shapes
        ]
        self._values = [torch.empty_like(keys) for keys in self._keys]
        self._positions_BS = torch.zeros(batch_size, max_tokens, dtype=torch.long, device=device)

    def context(self, attention_mask_BS: Tensor | None, positions_BT: Tensor) -> "CachedContext":
        """Reserve the next T slots and return the context that fills and reads them.

        The slots count as used at once; the context is valid for one forward pass.

        Args:
            attention_mask_BS: nonzero for real tokens, over used and new slots; None: no padding.
            positions_BT: positions of the new tokens.

        Raises:
            CapacityError: if the new tokens do not fit.
        """
        start, end = self.length, self.length + positions_BT.shape[-1]
        if end > self.max_tokens:
            raise CapacityError(
                f"The cache holds {self.max_tokens} tokens per row, but {end} are needed. "
                "Make it larger, or end the sequence earlier."
            )
        self._positions_BS[:, start:end] = positions_BT
        self.length = end
        return CachedContext(self, start, end, attention_mask_BS, positions_BT)

    def store(self, layer: int, start: int, k_BTKd: Tensor, v_BTKd: Tensor) -> None:
        """Write keys and values of one layer into the slots from `start` on."""
        end = start + k_BTKd.shape[1]
        self._keys[layer][:, :, start:end] = k_BTKd.transpose(1, 2)
        self._values[layer][:, :, start:end] = v_BTKd.transpose(1, 2)

    def read(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, K, S, d] of the slots before `end`; valid until `select`."""
        return self._keys[layer][:, :, :end], self._values[layer][:, :, :end]

    def key_positions(self, end: int) -> Tensor:
        """Return the positions [B, S] of the tokens in the slots before `end`."""
        return self._positions_BS[:, :end]

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` (indices, in their order; repeats make copies)."""
        self._keys = [keys[rows] for keys in self._keys]
        self._values = [values[rows] for values in self._values]
        self._positions_BS = self._positions_BS[rows]


class CachedContext:
    """Attention of T new tokens over everything in a cache, themselves included."""

    def __init__(
        self,
        cache: KVCache,
        start: int,
        end: int,
        attention_mask_BS: Tensor | None,
        positions_BT: Tensor,
    ) -> None:
        self._cache = cache
        self._start = start
        self._end = end
        visible = _visible(attention_mask_BS, start, end)
        self._dense = DenseContext(visible, positions_BT, cache.key_positions(end))

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Store the new keys and values, then return the attended values [B, T, H, d]."""
        self._cache.store(layer.index, self._start, k_BTKd, v_BTKd)
        keys, values = self._cache.read(layer.index, self._end)
        q_BHTd = q_BTHd.transpose(1, 2)
        mask = self._dense.mask(layer, q_BHTd.dtype)
        return scaled_attention(q_BHTd, keys, values, layer.scale, mask).transpose(1, 2)


def _visible(attention_mask_BS: Tensor | None, start: int, end: int) -> Tensor | None:
    """Return visibility [B, T, S] of the new slots, or None where plain causality says it all."""
    if attention_mask_BS is None or bool(attention_mask_BS.all()):
        return None
    real = attention_mask_BS.bool()
    new = torch.arange(start, end, device=real.device)
    itself = torch.arange(end, device=real.device) == new[:, None]
    return (causal_mask(end - start, end, real.device) & real[:, None, :]) | itself

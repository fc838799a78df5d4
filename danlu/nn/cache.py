"""Keys and values of tokens already seen, in one store per layer.

Rows of a batch share the slot axis: a batch is left-padded so that every row ends at the same slot.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.errors import CapacityError
from danlu.nn.attention import AttentionLayer
from danlu.nn.contexts import DenseContext, visible_slots
from danlu.nn.stores import PLAIN, Keeping, KVShape, Room


class KVCache:
    """Room for the keys and values of `max_tokens` slots of each row.

    Args:
        kv_shapes: what each layer keeps.
        batch_size: rows.
        max_tokens: slots per row, prompt, padding and answer together.
        dtype: of keys and values.
        device: where they are kept.
        keeping: how they are kept.
    """

    def __init__(
        self,
        kv_shapes: Sequence[KVShape],
        batch_size: int,
        max_tokens: int,
        dtype: torch.dtype,
        device: torch.device | str,
        keeping: Keeping = PLAIN,
    ) -> None:
        self.length = 0
        self.max_tokens = max_tokens
        room = Room(batch_size, max_tokens, dtype, device)
        self._stores = [keeping.store(i, shape, room) for i, shape in enumerate(kv_shapes)]
        self._positions_BS = torch.zeros(batch_size, max_tokens, dtype=torch.long, device=device)

    def context(
        self,
        attention_mask_BS: Tensor | None,
        positions_BT: Tensor,
        prefix_end_B: Tensor | None = None,
    ) -> "CachedContext":
        """Reserve the next T slots and return the context that fills and reads them.

        The slots count as used at once; the context is valid for one forward pass.

        Args:
            attention_mask_BS: nonzero for real tokens, over used and new slots; None: no padding.
            positions_BT: positions of the new tokens; of two coordinates [B, 2, T] the first
                counts for linear biases.
            prefix_end_B: slots before it are seen by every token of the row; they must come
                in one call. None: causal.

        Raises:
            CapacityError: if the new tokens do not fit.
        """
        start, end = self.length, self.length + positions_BT.shape[-1]
        if end > self.max_tokens:
            raise CapacityError(
                f"The cache holds {self.max_tokens} tokens per row, but {end} are needed. "
                "Make it larger, or end the sequence earlier."
            )
        slots_BT = positions_BT if positions_BT.ndim == 2 else positions_BT[:, 0]
        self._positions_BS[:, start:end] = slots_BT
        self.length = end
        visible_BTS = visible_slots(attention_mask_BS, prefix_end_B, start, end)
        return CachedContext(self, start, end, visible_BTS, slots_BT)

    def preload(self, prefix: Sequence[tuple[Tensor, Tensor]], positions_BP: Tensor) -> None:
        """Fill the first P slots of an empty cache: trained keys and values, or those of a prompt.

        Args:
            prefix: keys and values [B, K, P, d] of each layer, rotated already.
            positions_BP: their positions, for linear biases.
        """
        assert self.length == 0, "a prefix goes into an empty cache"
        self.length = positions_BP.shape[-1]
        self._positions_BS[:, : self.length] = positions_BP
        for layer, (keys, values) in enumerate(prefix):
            self.store(layer, 0, keys.transpose(1, 2), values.transpose(1, 2))

    def store(self, layer: int, start: int, k_BTKd: Tensor, v_BTKd: Tensor) -> None:
        """Write keys and values of one layer into the slots from `start` on."""
        self._stores[layer].write(start, k_BTKd, v_BTKd)

    def read(self, layer: int, end: int) -> tuple[Tensor, Tensor]:
        """Return keys and values [B, K, S, d] of the slots before `end`; valid until `select`."""
        return self._stores[layer].read(end)

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, end: int, mask: Tensor | None
    ) -> Tensor:
        """Return the values [B, T, H, d] that queries attend to in the slots before `end`."""
        store = self._stores[layer.index]
        return store.attend(q_BTHd.transpose(1, 2), end, layer.scale, mask).transpose(1, 2)

    def key_positions(self, end: int) -> Tensor:
        """Return the positions [B, S] of the tokens in the slots before `end`."""
        return self._positions_BS[:, :end]

    def select(self, rows: Tensor) -> None:
        """Keep only `rows` (indices, in their order; repeats make copies)."""
        for store in self._stores:
            store.select(rows)
        self._positions_BS = self._positions_BS[rows]


class CachedContext:
    """Attention of T new tokens over everything in a cache, themselves included."""

    def __init__(
        self,
        cache: KVCache,
        start: int,
        end: int,
        visible_BTS: Tensor | None,
        positions_BT: Tensor,
    ) -> None:
        self._cache = cache
        self._start = start
        self._end = end
        self._dense = DenseContext(visible_BTS, positions_BT, cache.key_positions(end))

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Store the new keys and values, then return the attended values [B, T, H, d]."""
        self._cache.store(layer.index, self._start, k_BTKd, v_BTKd)
        mask = self._dense.mask(layer, q_BTHd.dtype)
        return self._cache.attend(layer, q_BTHd, self._end, mask)

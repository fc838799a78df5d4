"""Fixed scales of keys and values, from what a model keeps of calibration text."""

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.calibration.text import Batch, batches, check_token_rows
from danlu.config.quantize.kv_cache import KvCacheScheme
from danlu.errors import QuantizationError
from danlu.models.decoder import Decoder
from danlu.nn.attention import AttentionContext, AttentionLayer
from danlu.nn.cache_rounding import CacheRounding, FixedRounding, TokenRounding
from danlu.progress import Progress, Silent, working

STEPS = 255  # from the most negative code to the most positive
STORED = torch.bfloat16  # a model in any dtype computes with these numbers exactly


class RangeRecorder:
    """Attention that remembers the largest key and value of each layer and head.

    Args:
        inner: attends.
        batch: what the text is.
        largest: (layer, "key" or "value") -> [K], float32; grows.
    """

    def __init__(
        self, inner: AttentionContext, batch: Batch, largest: dict[tuple[int, str], Tensor]
    ) -> None:
        self._inner = inner
        self._batch = batch
        self._largest = largest

    def attend(
        self, layer: AttentionLayer, q_BTHd: Tensor, k_BTKd: Tensor, v_BTKd: Tensor
    ) -> Tensor:
        """Return the attended values [B, T, H, d].

        Raises:
            QuantizationError: if a key or value is not finite.
        """
        self._record(layer.index, "key", k_BTKd)
        self._record(layer.index, "value", v_BTKd)
        return self._inner.attend(layer, q_BTHd, k_BTKd, v_BTKd)

    def _record(self, layer: int, kind: str, heads_BTKd: Tensor) -> None:
        found_K = heads_BTKd.float().abs().amax((0, 1, 3))
        if not bool(found_K.isfinite().all()):
            raise QuantizationError(
                f"A {kind} of layer {layer} is not finite on {self._batch.row_names()} of the "
                "calibration text; expected numbers. If that is so on every row, the weights are "
                "damaged: check or download them again. If it is so on one row, remove that row."
            )
        before = self._largest.get((layer, kind), found_K)
        self._largest[layer, kind] = torch.maximum(before, found_K)


@torch.inference_mode()
def cache_rounding(
    decoder: Decoder,
    scheme: KvCacheScheme,
    rows: Sequence[Sequence[int]],
    progress: Progress | None = None,
) -> CacheRounding:
    """Return how a decoder's keys and values are to be rounded; the decoder is left as it is.

    Args:
        decoder: the model as it will be served, with its weights quantized.
        scheme: how; only fixed scales look at the text.
        rows: token ids of calibration texts.
        progress: of the text.

    Raises:
        QuantizationError: if there is no text, or a key or value is not finite.
        DataError: if rows have no tokens, or tokens that the model does not know.
    """
    if scheme.scales == "token":
        return TokenRounding()
    if not rows:
        raise QuantizationError(
            f"Scales for each {scheme.scales} of keys and values come from calibration text, and "
            "there is none. Expected at least one row, or scales for each token, which need none."
        )
    check_token_rows(rows, decoder.vocab_size)
    largest = _ranges(decoder, rows, progress or Silent())
    keys, values = (
        [_scales(largest[layer, kind], scheme) for layer in range(decoder.config.num_layers)]
        for kind in ("key", "value")
    )
    return FixedRounding(keys, values)


def _ranges(
    decoder: Decoder, rows: Sequence[Sequence[int]], progress: Progress
) -> dict[tuple[int, str], Tensor]:
    largest: dict[tuple[int, str], Tensor] = {}
    text = batches(rows)
    with working(progress, "keys and values", len(text)) as bar:
        for batch in text:
            ids_BT = batch.ids_BT.to(decoder.device)
            positions_BT, attn = decoder.sequence_rule().context(ids_BT, None, None)
            decoder.model(ids_BT, positions_BT, RangeRecorder(attn, batch, largest))
            bar.advance(1)
    return largest


def _scales(largest_K: Tensor, scheme: KvCacheScheme) -> Tensor:
    """Return the scales [K] or [1] of a layer; keys that are all zero get any."""
    if scheme.scales == "tensor":
        largest_K = largest_K.amax(0, keepdim=True)
    scales_K = largest_K.cpu() / (STEPS / 2)
    return torch.where(scales_K > 0, scales_K, 1.0).to(STORED)

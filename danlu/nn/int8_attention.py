"""softmax(q k^T * scale + mask) v over keys and values in 8 bits.

Where few queries ask (decoding), the scales never touch keys and values: that of a key is a factor
on its scores, that of a value one on its probability. Codes become floating-point numbers slice by
slice, small enough to stay in the processor's cache, and are never kept as a whole.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from danlu.nn.scaled_attention import causal_mask, scaled_attention
from danlu.nn.stores import Scratch

FEW_QUERIES = 32  # of one kv head; from there on the fused kernel wins
CPU_SLICE = 2**19  # numbers that are made of codes at once
DEVICE_SLICE = 2**28


class Codes(NamedTuple):
    """Keys or values of one layer: code * scale.

    Attributes:
        codes_BKSd: int8.
        scales_BKS: float32; dims of size 1 stand for all rows, heads or tokens.
    """

    codes_BKSd: Tensor
    scales_BKS: Tensor

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """Return the numbers [B, K, S, d], rounded to `dtype` once."""
        codes, scales_BKS1 = self.codes_BKSd, self.scales_BKS[..., None]
        if codes.device.type == "cpu":  # a product of two dtypes is slow there
            return codes.float().mul_(scales_BKS1).to(dtype)
        return torch.mul(codes, scales_BKS1, out=torch.empty_like(codes, dtype=dtype))

    def rows(self, rows: slice) -> "Codes":
        """Return some rows of the batch."""
        scales_BKS = self.scales_BKS
        shared = len(scales_BKS) == 1
        return Codes(self.codes_BKSd[rows], scales_BKS if shared else scales_BKS[rows])

    def flat_scales(self) -> Tensor:
        """Return the scales as factors [B * K, 1, S or 1] on scores."""
        batch, heads = self.codes_BKSd.shape[:2]
        return self.scales_BKS.expand(batch, heads, -1).flatten(0, 1)[:, None]


def int8_attention(
    q_BHTd: Tensor,
    keys: Codes,
    values: Codes,
    scale: float,
    mask: Tensor | None,
    scratch: Scratch,
) -> Tensor:
    """Return softmax(q k^T * scale + mask) v as [B, H, T, d]; see `scaled_attention`."""
    queries = q_BHTd.shape[1] // keys.codes_BKSd.shape[1] * q_BHTd.shape[2]
    if q_BHTd.device.type == "cpu" and queries <= FEW_QUERIES:
        return _folded(q_BHTd, keys, values, scale, mask, scratch)
    return _dequantized(q_BHTd, keys, values, scale, mask)


def _folded(
    q_BHTd: Tensor,
    keys: Codes,
    values: Codes,
    scale: float,
    mask: Tensor | None,
    scratch: Scratch,
) -> Tensor:
    """Scales folded into scores and probabilities, in float32; R counts rows times kv heads."""
    batch, heads, num_queries, _ = q_BHTd.shape
    kv_heads, num_keys = keys.codes_BKSd.shape[1:3]
    if mask is None and num_queries > 1:
        mask = causal_mask(num_queries, num_keys, q_BHTd.device)[:, None]
    q_RNd = (q_BHTd.float() * scale).reshape(batch * kv_heads, -1, q_BHTd.shape[-1])
    k_RSd, v_RSd = keys.codes_BKSd.flatten(0, 1), values.codes_BKSd.flatten(0, 1)
    k_scales_R1S, v_scales_R1S = keys.flat_scales(), values.flat_scales()
    if mask is not None:
        mask = mask.expand(batch, heads, -1, -1).reshape(*q_RNd.shape[:2], num_keys)
    out_RNd = q_RNd.new_empty(*q_RNd.shape[:2], v_RSd.shape[-1])
    for rows in _slices(len(q_RNd), k_RSd[0].numel(), CPU_SLICE, torch.get_num_threads()):
        scores_RNS = torch.bmm(q_RNd[rows], _numbers(k_RSd[rows], scratch).transpose(1, 2))
        scores_RNS.mul_(k_scales_R1S[rows])
        weights_RNS = _masked(scores_RNS, mask, rows).softmax(-1).mul_(v_scales_R1S[rows])
        torch.bmm(weights_RNS, _numbers(v_RSd[rows], scratch), out=out_RNd[rows])
    return out_RNd.to(q_BHTd.dtype).view(batch, heads, num_queries, -1)


def _numbers(codes_RSd: Tensor, scratch: Scratch) -> Tensor:
    """Return codes as float32, in the same memory slice after slice: it stays in the cache."""
    return scratch.room(*codes_RSd.shape).copy_(codes_RSd)


def _masked(scores_RNS: Tensor, mask_RNS: Tensor | None, rows: slice) -> Tensor:
    if mask_RNS is None:
        return scores_RNS
    if mask_RNS.dtype == torch.bool:
        return scores_RNS.masked_fill_(~mask_RNS[rows], -torch.inf)
    return scores_RNS.add_(mask_RNS[rows])


def _dequantized(
    q_BHTd: Tensor, keys: Codes, values: Codes, scale: float, mask: Tensor | None
) -> Tensor:
    """Keys and values dequantized for some rows of the batch at a time, for the fused kernel."""
    limit = CPU_SLICE if q_BHTd.device.type == "cpu" else DEVICE_SLICE
    outs = []
    for rows in _slices(len(q_BHTd), keys.codes_BKSd[0].numel(), limit):
        k, v = (heads.rows(rows).dequantize(q_BHTd.dtype) for heads in (keys, values))
        own = mask if mask is None or len(mask) == 1 else mask[rows]
        outs.append(scaled_attention(q_BHTd[rows], k, v, scale, own))
    return outs[0] if len(outs) == 1 else torch.cat(outs)


def _slices(count: int, numbers: int, limit: int, at_least: int = 1) -> Iterator[slice]:
    """Yield slices of `count` parts of so many numbers, each within the limit where it can be."""
    step = max(at_least, limit // numbers)
    for start in range(0, count, step):
        yield slice(start, start + step)

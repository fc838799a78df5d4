"""softmax(q k^T * scale + mask) v, on whichever path is fastest for shape, dtype and device."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

PLAIN_SCORES = 2**25  # scores that may exist at once where attention is computed as it is written


def scaled_attention(
    q_BHTd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, scale: float, mask: Tensor | None
) -> Tensor:
    """Return softmax(q k^T * scale + mask) v as [B, H, T, d]; without a mask it is causal.

    Grouped heads are folded or repeated here: the fused CPU kernel takes neither groups (it falls
    back to a path 10 times slower) nor a broadcast over them.

    Args:
        q_BHTd: queries; query head h uses kv head h // (H / K).
        k_BKSd: keys; with no mask and T < S the queries are the last T tokens.
        v_BKSd: values; their heads may be smaller than those of the keys.
        scale: factor on the scores.
        mask: [B or 1, 1 or H, T, S], boolean (True: visible) or additive, or None.
    """
    groups = q_BHTd.shape[1] // k_BKSd.shape[1]
    num_queries, num_keys = q_BHTd.shape[2], k_BKSd.shape[2]
    if num_queries == 1 and mask is None:
        return _single_query(q_BHTd, k_BKSd, v_BKSd, scale)
    if mask is None and (num_queries != num_keys or _is_plain_faster(q_BHTd, num_keys)):
        mask = causal_mask(num_queries, num_keys, q_BHTd.device)[:, None]
    if mask is not None and _is_plain_faster(q_BHTd, num_keys):
        return _plain_attention(q_BHTd, k_BKSd, v_BKSd, scale, mask)
    if groups > 1:
        k_BKSd = k_BKSd.repeat_interleave(groups, dim=1)
        v_BKSd = v_BKSd.repeat_interleave(groups, dim=1)
    return _fused_attention(q_BHTd, k_BKSd, v_BKSd, scale, mask)


def _fused_attention(
    q_BHTd: Tensor, k_BHSd: Tensor, v_BHSd: Tensor, scale: float, mask: Tensor | None
) -> Tensor:
    """The fused kernel wants heads of one size; without it a prefill is three times slower."""
    value_dim = v_BHSd.shape[-1]
    padding = k_BHSd.shape[-1] - value_dim
    if padding > 0:
        v_BHSd = F.pad(v_BHSd, (0, padding))
    out_BHTd = F.scaled_dot_product_attention(
        q_BHTd, k_BHSd, v_BHSd, attn_mask=mask, is_causal=mask is None, scale=scale
    )
    return out_BHTd[..., :value_dim]


def _single_query(q_BH1d: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, scale: float) -> Tensor:
    """One query that sees every key: the heads of a group become the queries of its kv head."""
    batch, heads, _, head_dim = q_BH1d.shape
    q_BKGd = q_BH1d.reshape(batch, k_BKSd.shape[1], -1, head_dim)
    out_BKGd = F.scaled_dot_product_attention(q_BKGd, k_BKSd, v_BKSd, scale=scale)
    return out_BKGd.reshape(batch, heads, 1, -1)


def _is_plain_faster(q_BHTd: Tensor, num_keys: int) -> bool:
    """Training in bfloat16 on the CPU: the fused kernel's backward pass is several times slower."""
    trains = q_BHTd.requires_grad and torch.is_grad_enabled()
    on_cpu = q_BHTd.device.type == "cpu" and q_BHTd.dtype == torch.bfloat16
    return trains and on_cpu and q_BHTd[..., 0].numel() * num_keys <= PLAIN_SCORES


def _plain_attention(
    q_BHTd: Tensor, k_BKSd: Tensor, v_BKSd: Tensor, scale: float, mask: Tensor
) -> Tensor:
    """The formula as it stands; the heads of a group are extra queries of their kv head."""
    batch, heads, num_queries, _ = q_BHTd.shape
    kv_heads, num_keys = k_BKSd.shape[1], k_BKSd.shape[2]
    groups = heads // kv_heads
    if mask.dtype == torch.bool:
        mask = torch.zeros_like(mask, dtype=q_BHTd.dtype).masked_fill_(~mask, -math.inf)
    mask = mask.expand(-1, heads, -1, -1).unflatten(1, (kv_heads, groups))
    q_BKNd = (q_BHTd * scale).reshape(batch, kv_heads, groups * num_queries, -1)
    scores_BKNS = q_BKNd @ k_BKSd.transpose(-1, -2)
    scores_BKGTS = scores_BKNS.view(batch, kv_heads, groups, num_queries, num_keys) + mask
    weights_BKNS = scores_BKGTS.softmax(-1).flatten(2, 3)
    return (weights_BKNS @ v_BKSd).reshape(batch, heads, num_queries, -1)


def causal_mask(num_queries: int, num_keys: int, device: torch.device) -> Tensor:
    """Return visibility [1, T, S] of the last T of S tokens: itself and what is before."""
    queries = torch.arange(num_keys - num_queries, num_keys, device=device)
    return (torch.arange(num_keys, device=device) <= queries[:, None])[None]

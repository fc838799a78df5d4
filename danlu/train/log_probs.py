"""Log-probabilities of given tokens, a chunk of positions at a time: full logits never exist.

What is kept for the backward pass is one number per token. A frozen head (LoRA) gets the gradient
of the hidden states while the chunk's probabilities are at hand; a trained head computes the chunk
again in the backward pass, since its gradient depends on how much each sequence counts.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from danlu.data.batch import IGNORE
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear
from danlu.train.loss import chunk_size


def sequence_log_probs(
    decoder: Decoder, hidden_BTD: Tensor, targets_BT: Tensor, documents_BT: Tensor
) -> Tensor:
    """Return the summed log-probability of the targets of each document, float32 [S].

    Args:
        decoder: projects hidden states to logits.
        hidden_BTD: what enters the head.
        targets_BT: id to predict at each position; `IGNORE` where there is none.
        documents_BT: number of the document of each position, counted from 0 over all rows in the
            order in which they lie; -1 is padding. S is how many there are.
    """
    log_probs_BT = token_log_probs(decoder, hidden_BTD, targets_BT)
    return sums_by_document(log_probs_BT, documents_BT)


def sums_by_document(values_BT: Tensor, documents_BT: Tensor) -> Tensor:
    """Return the sum of the values of each document [S]; the same bits each time.

    Documents are numbered from 0 in the order in which they lie; padding (-1) counts nowhere.
    """
    numbers_M, lengths_M = torch.unique_consecutive(documents_BT.flatten(), return_counts=True)
    parts = values_BT.flatten().split(lengths_M.tolist())
    runs = zip(numbers_M.tolist(), parts, strict=True)
    return torch.stack([part.sum() for number, part in runs if number >= 0])


def token_log_probs(
    decoder: Decoder, hidden_BTD: Tensor, targets_BT: Tensor, chunk_tokens: int | None = None
) -> Tensor:
    """Return log p(target) at each position, float32 [B, T]; 0 where there is no target.

    Args:
        decoder: projects hidden states to logits.
        hidden_BTD: what enters the head.
        targets_BT: id to predict at each position; `IGNORE` where there is none.
        chunk_tokens: positions projected at once; None: chosen by the size of the vocabulary.
    """
    chunk_tokens = chunk_tokens or chunk_size(decoder.config.vocab_size)
    positions_N = (targets_BT.flatten() != IGNORE).nonzero().squeeze(1)
    hidden_ND = hidden_BTD.flatten(0, -2).index_select(0, positions_N)
    targets_N = targets_BT.flatten().index_select(0, positions_N)
    head = decoder.lm_head
    is_product = type(decoder).logits is Decoder.logits and type(head) is Linear
    if is_product and head.bias_or_none() is None:
        log_probs_N: Tensor = _ChunkedLogProbs.apply(  # type: ignore[no-untyped-call]
            hidden_ND, head.dense_weight(), targets_N, chunk_tokens, torch.is_grad_enabled()
        )
    else:
        log_probs_N = _checkpointed_log_probs(decoder, hidden_ND, targets_N, chunk_tokens)
    everywhere_N = log_probs_N.new_zeros(targets_BT.numel())
    return everywhere_N.index_copy(0, positions_N, log_probs_N).view_as(targets_BT)


class _ChunkedLogProbs(torch.autograd.Function):
    """log softmax(hidden W^T)[target] for each row; the softmax is float32."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        targets_N: Tensor,
        chunk_tokens: int,
        with_grad: bool,
    ) -> Tensor:
        wants_hidden, wants_weight = (with_grad and need for need in ctx.needs_input_grad[:2])
        grad_ND = torch.empty_like(hidden_ND) if wants_hidden and not wants_weight else None
        log_probs_N = hidden_ND.new_empty(len(hidden_ND), dtype=torch.float32)
        for start in range(0, len(hidden_ND), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            log_p_CV = _log_softmax(hidden_ND[chunk], weight_VD)
            targets_C1 = targets_N[chunk, None]
            log_probs_N[chunk] = log_p_CV.gather(1, targets_C1).squeeze(1)
            if grad_ND is not None:
                error_CV = _error(log_p_CV, targets_C1).to(hidden_ND.dtype)
                torch.mm(error_CV, weight_VD, out=grad_ND[chunk])
        ctx.chunk_tokens = chunk_tokens
        ctx.gradient_is_ready = grad_ND is not None
        ctx.save_for_backward(*((grad_ND,) if grad_ND is not None else ()))
        if wants_weight:
            ctx.save_for_backward(hidden_ND, weight_VD, targets_N)
        return log_probs_N

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        (scale_N,) = grad_outputs
        if ctx.gradient_is_ready:
            (grad_ND,) = ctx.saved_tensors
            return (scale_N[:, None] * grad_ND).to(grad_ND.dtype), None, None, None, None
        hidden_ND, weight_VD, targets_N = ctx.saved_tensors
        grad_ND = torch.empty_like(hidden_ND) if ctx.needs_input_grad[0] else None
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32)
        for start in range(0, len(hidden_ND), ctx.chunk_tokens):
            chunk = slice(start, start + ctx.chunk_tokens)
            log_p_CV = _log_softmax(hidden_ND[chunk], weight_VD)
            error_CV = _error(log_p_CV, targets_N[chunk, None]).mul_(scale_N[chunk, None])
            error_CV = error_CV.to(hidden_ND.dtype)
            if grad_ND is not None:
                torch.mm(error_CV, weight_VD, out=grad_ND[chunk])
            grad_VD += error_CV.T @ hidden_ND[chunk]
        return grad_ND, grad_VD.to(weight_VD.dtype), None, None, None


def _log_softmax(hidden_CD: Tensor, weight_VD: Tensor) -> Tensor:
    return F.log_softmax(hidden_CD @ weight_VD.T, dim=-1, dtype=torch.float32)


def _error(log_p_CV: Tensor, targets_C1: Tensor) -> Tensor:
    """Turn log-probabilities, in place, into one-hot minus softmax: the gradient of the logits."""
    negative_CV = log_p_CV.exp_().neg_()
    return negative_CV.scatter_add_(
        1, targets_C1, negative_CV.new_ones((1, 1)).expand_as(targets_C1)
    )


def _checkpointed_log_probs(
    decoder: Decoder, hidden_ND: Tensor, targets_N: Tensor, chunk_tokens: int
) -> Tensor:
    """The same for any head: each chunk's logits are computed again in the backward pass."""

    def chunk_log_probs(hidden_CD: Tensor, targets_C: Tensor) -> Tensor:
        logits_CV = decoder.logits(hidden_CD).float()
        return -F.cross_entropy(logits_CV, targets_C, reduction="none")

    chunks = zip(
        torch.split(hidden_ND, chunk_tokens), torch.split(targets_N, chunk_tokens), strict=True
    )
    parts = [checkpoint(chunk_log_probs, *chunk, use_reentrant=False) for chunk in chunks]
    return torch.cat(parts)

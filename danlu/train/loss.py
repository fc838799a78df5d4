"""Cross-entropy from hidden states, a chunk of positions at a time: full logits never exist.

The gradient with respect to hidden states and head is computed in the forward pass, while a
chunk's probabilities are at hand, so nothing of size tokens x vocabulary is kept or recomputed.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from danlu.adapters.token_rows import RowsLinear
from danlu.data.batch import IGNORE
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear

_LOGITS_PER_CHUNK = 2**22  # 16 MiB in float32: stays near the cores
_POSITION_STEP = 64
_LEAST_CHUNK_TOKENS = 256  # fewer rows make slow matrix products


def chunk_size(vocab_size: int) -> int:
    """Return how many positions are projected at once."""
    return max(_LEAST_CHUNK_TOKENS, _LOGITS_PER_CHUNK // vocab_size)


def head_loss(
    decoder: Decoder,
    hidden_BTD: Tensor,
    targets_BT: Tensor,
    weights_BT: Tensor | None = None,
    *,
    chunk_tokens: int | None = None,
) -> Tensor:
    """Return the summed cross-entropy (float32 scalar) of all positions that have a target.

    Args:
        decoder: projects hidden states to logits.
        hidden_BTD: what enters the head.
        targets_BT: id to predict at each position; `IGNORE` where there is none.
        weights_BT: what each position's cross-entropy is multiplied by; None: 1.
        chunk_tokens: positions projected at once; None: chosen by the size of the vocabulary.
    """
    chunk_tokens = chunk_tokens or chunk_size(decoder.config.vocab_size)
    hidden_ND, targets_N, weights_N = _targets(hidden_BTD, targets_BT, weights_BT)
    head = decoder.lm_head
    is_product = type(decoder).logits is Decoder.logits and type(head) is Linear
    if is_product and head.bias_or_none() is None:
        weight_VD = head.dense_weight()
        return chunked_cross_entropy(hidden_ND, weight_VD, targets_N, chunk_tokens, weights_N)
    split = head.split() if isinstance(head, RowsLinear) else None
    if split is not None:
        weight_VD, *rows = split
        return chunked_cross_entropy(
            hidden_ND, weight_VD, targets_N, chunk_tokens, weights_N, TrainedRows(*rows)
        )
    return _checkpointed_cross_entropy(decoder, hidden_ND, targets_N, chunk_tokens, weights_N)


@torch.no_grad()
def head_scores(
    decoder: Decoder, hidden_BTD: Tensor, targets_BT: Tensor, weights_BT: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return the loss of `head_loss`, without a gradient, and how many targets score highest.

    The number of these is an int64 scalar; weights do not matter to it.
    """
    hidden_ND, targets_N, weights_N = _targets(hidden_BTD, targets_BT, weights_BT)
    chunk_tokens = chunk_size(decoder.config.vocab_size)
    loss = hidden_BTD.new_zeros((), dtype=torch.float32)
    hits = targets_N.new_zeros(())
    for start in range(0, len(hidden_ND), chunk_tokens):
        chunk = slice(start, start + chunk_tokens)
        ignored_C, targets_C = targets_N[chunk] == IGNORE, targets_N[chunk].clamp(min=0)
        logits_CV = decoder.logits(hidden_ND[chunk])
        log_p_CV = F.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
        known_C = log_p_CV.gather(1, targets_C[:, None])[:, 0].masked_fill_(ignored_C, 0.0)
        loss -= (known_C if weights_N is None else known_C.mul_(weights_N[chunk])).sum()
        hits += ((log_p_CV.argmax(dim=-1) == targets_C) & ~ignored_C).sum()
    return loss, hits


def _targets(
    hidden_BTD: Tensor, targets_BT: Tensor, weights_BT: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return hidden states [N, D], targets and weights [N] of the positions with a target.

    Some more positions make N a round number; they have no target.
    """
    positions_N = (targets_BT.flatten() != IGNORE).nonzero().squeeze(1)
    num_targets = len(positions_N)
    positions_N = _even(positions_N)
    hidden_ND = hidden_BTD.flatten(0, -2).index_select(0, positions_N)
    targets_N = targets_BT.flatten().index_select(0, positions_N)
    targets_N[num_targets:] = IGNORE
    weights_N = None if weights_BT is None else weights_BT.flatten().index_select(0, positions_N)
    return hidden_ND, targets_N, weights_N


def _even(positions_N: Tensor) -> Tensor:
    """Append the first position up to a round number: kernels are prepared once per shape."""
    missing = -len(positions_N) % _POSITION_STEP
    return torch.cat((positions_N, positions_N[:1].expand(missing if len(positions_N) else 0)))


class TrainedRows(NamedTuple):
    """What is added to some rows of a head.

    Attributes:
        ids_n: the rows.
        change_nD: what is added to them.
    """

    ids_n: Tensor
    change_nD: Tensor


def chunked_cross_entropy(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    targets_N: Tensor,
    chunk_tokens: int,
    weights_N: Tensor | None = None,
    rows: TrainedRows | None = None,
) -> Tensor:
    """Return sum of -log softmax(hidden W^T)[target] as a float32 scalar, `IGNORE` left out.

    Each term is multiplied by its entry of `weights_N`, if there are weights. `rows` are added to
    W, and get their gradient without one of the size of W. The softmax is float32 whatever the
    inputs are. Backward may run once.
    """
    with_grad = torch.is_grad_enabled()
    ids_n, change_nD = rows if rows is not None else (None, None)
    if change_nD is not None:
        change_nD = change_nD.to(hidden_ND.dtype)
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden_ND, weight_VD, change_nD, ids_n, targets_N, weights_N, chunk_tokens, with_grad
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: Tensor,
        weight_VD: Tensor,
        change_nD: Tensor | None,
        ids_n: Tensor | None,
        targets_N: Tensor,
        weights_N: Tensor | None,
        chunk_tokens: int,
        with_grad: bool,
    ) -> Tensor:
        wants_hidden, wants_weight = (with_grad and need for need in ctx.needs_input_grad[:2])
        grad_ND = torch.empty_like(hidden_ND) if wants_hidden else None
        grad_VD = torch.zeros_like(weight_VD, dtype=torch.float32) if wants_weight else None
        grad_nD = None
        if change_nD is not None and with_grad and ctx.needs_input_grad[2]:
            grad_nD = torch.zeros_like(change_nD, dtype=torch.float32)
        loss = hidden_ND.new_zeros((), dtype=torch.float32)
        for start in range(0, len(hidden_ND), chunk_tokens):
            chunk = slice(start, start + chunk_tokens)
            hidden_CD, targets_C1 = hidden_ND[chunk], targets_N[chunk, None]
            ignored_C1, targets_C1 = targets_C1 == IGNORE, targets_C1.clamp(min=0)
            logits_CV = hidden_CD @ weight_VD.T
            if change_nD is not None and ids_n is not None:
                logits_CV.index_add_(1, ids_n, hidden_CD @ change_nD.T)
            log_p_CV = F.log_softmax(logits_CV, dim=-1, dtype=torch.float32)
            known_C1 = log_p_CV.gather(1, targets_C1).masked_fill_(ignored_C1, 0.0)
            weights_C1 = None if weights_N is None else weights_N[chunk, None]
            loss -= (known_C1 if weights_C1 is None else known_C1.mul_(weights_C1)).sum()
            if grad_ND is None and grad_VD is None and grad_nD is None:
                continue
            error_CV = _prediction_error(log_p_CV, targets_C1).masked_fill_(ignored_C1, 0.0)
            if weights_C1 is not None:
                error_CV.mul_(weights_C1)
            error_CV = error_CV.to(hidden_ND.dtype)
            if grad_ND is not None:
                torch.mm(error_CV, weight_VD, out=grad_ND[chunk])
            if grad_VD is not None:
                _add_product(grad_VD, error_CV.T, hidden_CD)
            if change_nD is not None:
                error_Cn = error_CV[:, ids_n]
                if grad_ND is not None:
                    grad_ND[chunk].addmm_(error_Cn, change_nD)
                if grad_nD is not None:
                    _add_product(grad_nD, error_Cn.T, hidden_CD)
        ctx.dtype = hidden_ND.dtype
        ctx.gradients = (grad_ND, grad_VD, grad_nD)
        return loss

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.gradients is None:
            raise RuntimeError("Backward through the chunked loss a second time; it runs once.")
        gradients, ctx.gradients = ctx.gradients, None  # they are scaled in place
        (scale,) = grad_outputs
        scaled = [None if g is None else g.mul_(scale).to(ctx.dtype) for g in gradients]
        return *scaled, None, None, None, None, None


def _prediction_error(log_p_CV: Tensor, targets_C1: Tensor) -> Tensor:
    """Turn log probabilities, in place, into softmax minus one-hot: the gradient of the logits."""
    p_CV = log_p_CV.exp_()
    return p_CV.scatter_add_(1, targets_C1, p_CV.new_full((1, 1), -1.0).expand_as(targets_C1))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right to the float32 `total`."""
    if left.dtype == total.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


def _checkpointed_cross_entropy(
    decoder: Decoder,
    hidden_ND: Tensor,
    targets_N: Tensor,
    chunk_tokens: int,
    weights_N: Tensor | None,
) -> Tensor:
    """The same for any head: each chunk's logits are computed again in the backward pass."""

    def chunk_loss(hidden_CD: Tensor, targets_C: Tensor, weights_C: Tensor | None) -> Tensor:
        logits_CV = decoder.logits(hidden_CD).float()
        if weights_C is None:
            return F.cross_entropy(logits_CV, targets_C, reduction="sum", ignore_index=IGNORE)
        each_C = F.cross_entropy(logits_CV, targets_C, reduction="none", ignore_index=IGNORE)
        return (each_C * weights_C).sum()

    loss = hidden_ND.new_zeros((), dtype=torch.float32)
    for number, hidden_CD in enumerate(torch.split(hidden_ND, chunk_tokens)):
        chunk = slice(number * chunk_tokens, (number + 1) * chunk_tokens)
        weights_C = None if weights_N is None else weights_N[chunk]
        parts = (hidden_CD, targets_N[chunk], weights_C)
        loss = loss + checkpoint(chunk_loss, *parts, use_reentrant=False)
    return loss

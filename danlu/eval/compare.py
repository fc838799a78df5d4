"""How far one model's predictions are from another's, token by token."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional as F

from danlu.errors import DataError, ShapeError
from danlu.eval.perplexity import Score
from danlu.eval.scoring import float_logits, hidden_states, logit_chunks
from danlu.models.decoder import Decoder

TokenBatch = Tensor | Sequence[Sequence[int]]


@dataclass(frozen=True)
class Comparison:
    """What changed from a reference to a candidate over the same tokens.

    Attributes:
        kl_mean: mean over positions of KL(reference || candidate), in nats.
        kl_max: the largest of them.
        top1_agreement: share of positions where both find the same token most likely.
        max_logit_difference: largest absolute difference of any logit.
        perplexity_reference: of the tokens, by the reference.
        perplexity_candidate: likewise.
        num_tokens: positions compared.
    """

    kl_mean: float
    kl_max: float
    top1_agreement: float
    max_logit_difference: float
    perplexity_reference: float
    perplexity_candidate: float
    num_tokens: int

    def summary(self) -> str:
        """Return the figures as one line."""
        return (
            f"KL {self.kl_mean:.2e} (max {self.kl_max:.2e}), "
            f"top-1 agreement {self.top1_agreement:.2%}, "
            f"largest logit difference {self.max_logit_difference:.2e}, "
            f"perplexity {self.perplexity_reference:.4f} -> {self.perplexity_candidate:.4f}, "
            f"over {self.num_tokens} tokens"
        )


@dataclass
class _Sums:
    """What is added up position by position."""

    kl: float = 0.0
    kl_max: float = 0.0
    agreed: int = 0
    difference: float = 0.0
    tokens: int = 0
    nll: list[float] = field(default_factory=lambda: [0.0, 0.0])
    targets: int = 0


@torch.inference_mode()
def compare_decoders(
    reference: Decoder, candidate: Decoder, token_batches: Iterable[TokenBatch]
) -> Comparison:
    """Run both models over the same tokens and compare their logits at every position.

    Args:
        reference: what the candidate should be like.
        candidate: the changed model; may compute in another dtype or be quantized.
        token_batches: token ids [B, T], or lists of rows of any lengths, without padding.

    Raises:
        ShapeError: if the vocabularies differ in size.
        DataError: if there are no tokens.
    """
    sizes = reference.config.vocab_size, candidate.config.vocab_size
    if sizes[0] != sizes[1]:
        raise ShapeError(
            f"The models have vocabularies of {sizes[0]} and {sizes[1]} tokens; expected one size. "
            "Only models of one tokenizer can be compared."
        )
    sums = _Sums()
    for batch in token_batches:
        rows = batch.tolist() if isinstance(batch, Tensor) else batch
        _add_rows(reference, candidate, [list(row) for row in rows if len(row)], sums)
    if not sums.tokens:
        raise DataError("There are no tokens to compare the models on; expected at least one.")
    return _result(sums)


def _add_rows(reference: Decoder, candidate: Decoder, rows: list[list[int]], sums: _Sums) -> None:
    if not rows:
        return
    hidden_a, hidden_b = hidden_states(reference, rows), hidden_states(candidate, rows)
    targets_N = torch.tensor([token for row in rows for token in (*row[1:], -100)])
    for part in logit_chunks(reference.config.vocab_size, len(targets_N)):
        _add_logits(
            float_logits(reference, hidden_a[part]),
            float_logits(candidate, hidden_b[part]).to(hidden_a.device),
            targets_N[part].to(hidden_a.device),
            sums,
        )


def _add_logits(a_NV: Tensor, b_NV: Tensor, targets_N: Tensor, sums: _Sums) -> None:
    logp_NV, logq_NV = a_NV.log_softmax(-1), b_NV.log_softmax(-1)
    kl_N = F.kl_div(logq_NV, logp_NV, reduction="none", log_target=True).sum(-1).clamp(min=0)
    sums.kl += float(kl_N.double().sum())
    sums.kl_max = max(sums.kl_max, float(kl_N.max()))
    sums.agreed += int((a_NV.argmax(-1) == b_NV.argmax(-1)).sum())
    sums.difference = max(sums.difference, float((a_NV - b_NV).abs().max()))
    sums.tokens += len(targets_N)
    sums.targets += int((targets_N != -100).sum())
    for model, logs_NV in enumerate((logp_NV, logq_NV)):
        sums.nll[model] += float(F.nll_loss(logs_NV, targets_N, reduction="sum"))


def _result(sums: _Sums) -> Comparison:
    return Comparison(
        kl_mean=sums.kl / sums.tokens,
        kl_max=sums.kl_max,
        top1_agreement=sums.agreed / sums.tokens,
        max_logit_difference=sums.difference,
        perplexity_reference=Score(sums.nll[0], sums.targets).perplexity,
        perplexity_candidate=Score(sums.nll[1], sums.targets).perplexity,
        num_tokens=sums.tokens,
    )

"""Pairs without a reference: SimPO (arXiv:2405.14734) and CPO (arXiv:2401.08417), as in TRL 1.16.

-log s(z), smoothed for wrong labels, plus `sft_weight` times the cross-entropy of the chosen
answers, a mean over all their tokens in the global batch. With the log-probabilities c and r of
the answers, SimPO has z = beta * (c - r) - gamma with means per token; CPO has z = beta * (c - r)
with sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from danlu.config.objective import CpoConfig, SimpoConfig
from danlu.models.decoder import Decoder
from danlu.train.preference.batch import PairBatch
from danlu.train.preference.dpo import smoothed
from danlu.train.preference.scoring import (
    PairLogProbs,
    Tally,
    answer_log_probs,
    pair_log_probs,
    pairs_per_token,
)


@dataclass(frozen=True)
class Terms:
    """The numbers of the formula above, and whether means per token are compared."""

    beta: float
    gamma: float
    label_smoothing: float
    sft_weight: float
    per_token: bool


def simpo(config: SimpoConfig) -> "Contrast":
    """Return the objective of SimPO."""
    return Contrast(
        Terms(config.beta, config.gamma, config.label_smoothing, config.sft_weight, True)
    )


def cpo(config: CpoConfig) -> "Contrast":
    """Return the objective of CPO."""
    return Contrast(Terms(config.beta, 0.0, config.label_smoothing, config.sft_weight, False))


class Contrast:
    """A chosen answer against a rejected one, without a reference model."""

    def __init__(self, terms: Terms) -> None:
        self._terms = terms
        self._tally = Tally()
        self._pairs_per_token: float | None = None

    def begin_step(self, model: Decoder, batches: Sequence[PairBatch]) -> None:
        """Count the tokens that the cross-entropy is a mean over."""
        if self._terms.sft_weight:
            self._pairs_per_token = pairs_per_token(batches)

    def loss(self, model: Decoder, batch: PairBatch) -> tuple[Tensor, int]:
        """Return the loss summed over the pairs, and how many there are."""
        terms = self._terms
        sums = pair_log_probs(answer_log_probs(model, batch.sequences), batch.sequences)
        used = sums.per_token() if terms.per_token else sums
        z_N = terms.beta * (used.chosen_N - used.rejected_N) - terms.gamma
        loss = smoothed(z_N, terms.label_smoothing).sum()
        if terms.sft_weight:
            scale = self._pairs_per_token or pairs_per_token([batch])
            loss = loss - terms.sft_weight * scale * sums.chosen_N.sum()
        self._measure(used)
        return loss, batch.num_pairs

    def take_metrics(self) -> dict[str, float]:
        """Return rewards (beta times what is compared) and what is compared."""
        return self._tally.take()

    def _measure(self, used: PairLogProbs) -> None:
        beta, chosen_N, rejected_N = self._terms.beta, used.chosen_N, used.rejected_N
        self._tally.add_rewards(beta * chosen_N.detach(), beta * rejected_N.detach())
        self._tally.add(log_prob_chosen=chosen_N, log_prob_rejected=rejected_N)

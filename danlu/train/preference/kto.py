"""Kahneman-Tversky optimization (arXiv:2402.01306), as in TRL 1.16: answers found good or bad.

An answer is good if its log-ratio, policy minus reference, is above a common zero: the mean
log-ratio of answers to other prompts, which estimates the KL divergence, and at least 0. TRL takes
that mean over a micro-batch; here it is over the whole global batch, so that the loss does not
depend on how the batch is cut. With one micro-batch per step both are the same.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from danlu.config.objective import KtoConfig
from danlu.models.decoder import Decoder
from danlu.train.preference.batch import JudgedBatch
from danlu.train.preference.reference import Reference
from danlu.train.preference.scoring import Tally, answer_log_probs, evaluating


class Kto:
    """Judged answers beside a reference model.

    Args:
        config: which loss, and its weights.
        reference: what the policy is compared with.
    """

    def __init__(self, config: KtoConfig, reference: Reference) -> None:
        self._config = config
        self._reference = reference
        self._tally = Tally()
        self._kl: Tensor | None = None

    def begin_step(self, model: Decoder, batches: Sequence[JudgedBatch]) -> None:
        """Estimate the KL divergence from the mismatched answers of all batches."""
        self._kl = self._estimate(model, batches)

    def loss(self, model: Decoder, batch: JudgedBatch) -> tuple[Tensor, int]:
        """Return the loss summed over the answers, and how many there are."""
        config = self._config
        reference_N = self._reference.log_probs(model, batch.sequences)
        policy_N = answer_log_probs(model, batch.sequences)
        ratios_N = policy_N - reference_N
        kl = self._estimate(model, [batch]) if self._kl is None else self._kl
        desirable_N = batch.desirable_N
        signs_N = desirable_N.to(ratios_N) * 2 - 1
        values_N = (config.beta * signs_N * (ratios_N - kl)).sigmoid()
        weights_N = torch.where(desirable_N, config.desirable_weight, config.undesirable_weight)
        self._measure(config.beta * ratios_N.detach(), policy_N.detach(), desirable_N, kl)
        return (weights_N * (1 - values_N)).sum(), len(ratios_N)

    def take_metrics(self) -> dict[str, float]:
        """Return rewards (beta times the log-ratios), log-probabilities, and the KL estimate."""
        means = self._tally.take()
        if {"reward_chosen", "reward_rejected"} <= means.keys():
            means["reward_margin"] = means["reward_chosen"] - means["reward_rejected"]
        return means

    def _estimate(self, model: Decoder, batches: Sequence[JudgedBatch]) -> Tensor:
        """Return the mean log-ratio of the mismatched answers, at least 0, without gradient."""
        mismatched = [batch.mismatched for batch in batches if batch.mismatched is not None]
        if not mismatched:
            return torch.zeros((), device=batches[0].desirable_N.device)
        with evaluating(model):
            ratios = [
                answer_log_probs(model, sequences) - self._reference.log_probs(model, sequences)
                for sequences in mismatched
            ]
        return torch.cat(ratios).mean().clamp(min=0)

    def _measure(self, rewards_N: Tensor, policy_N: Tensor, good_N: Tensor, kl: Tensor) -> None:
        self._tally.add(
            reward_chosen=rewards_N[good_N],
            reward_rejected=rewards_N[~good_N],
            reward_accuracy=(rewards_N > self._config.beta * kl) == good_N,
            log_prob_chosen=policy_N[good_N],
            log_prob_rejected=policy_N[~good_N],
        )
        if self._config.loss == "kto":
            self._tally.add(kl=kl.expand(len(rewards_N)))

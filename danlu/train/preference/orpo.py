"""Odds ratio preference optimization (arXiv:2403.07691), as in TRL 1.16.

loss = cross-entropy of the chosen sequence - beta * mean(log s(log odds ratio)); the odds are those
of the mean log-probability per token, and the cross-entropy is a mean over all tokens of the
global batch, those of the prompts included unless told otherwise.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from danlu.config.objective import OrpoConfig
from danlu.data.batch import IGNORE
from danlu.models.decoder import Decoder
from danlu.train.log_probs import sums_by_document, token_log_probs
from danlu.train.preference.batch import PairBatch, Sequences
from danlu.train.preference.scoring import PairLogProbs, Tally, pair_log_probs

_LEAST = 1e-6  # an answer that is certain has infinite odds


class Orpo:
    """Pairs without a reference model."""

    def __init__(self, config: OrpoConfig) -> None:
        self._config = config
        self._tally = Tally()
        self._pairs_per_token: float | None = None

    def begin_step(self, model: Decoder, batches: Sequence[PairBatch]) -> None:
        """Count the tokens that the cross-entropy is a mean over."""
        self._pairs_per_token = self._per_token(batches)

    def loss(self, model: Decoder, batch: PairBatch) -> tuple[Tensor, int]:
        """Return the loss summed over the pairs, and how many there are."""
        sequences, beta = batch.sequences, self._config.beta
        hidden_BTD = model.packed_hidden(sequences.tokens_BT, sequences.documents_BT)
        learned_BT = self._is_learned(batch)
        targets_BT = sequences.targets_BT.masked_fill(
            ~(learned_BT | sequences.in_answer_BT), IGNORE
        )
        log_probs_BT = token_log_probs(model, hidden_BTD, targets_BT)
        nll = -(log_probs_BT * learned_BT).sum()
        means = _answer_means(log_probs_BT, sequences)
        log_odds_N = log_odds_ratio(means.chosen_N, means.rejected_N)
        scale = self._pairs_per_token or self._per_token([batch])
        self._tally.add_rewards(beta * means.chosen_N.detach(), beta * means.rejected_N.detach())
        self._tally.add(log_odds_ratio=log_odds_N)
        self._tally.add(log_prob_chosen=means.chosen_N, log_prob_rejected=means.rejected_N)
        return scale * nll - beta * logsigmoid(log_odds_N).sum(), batch.num_pairs

    def take_metrics(self) -> dict[str, float]:
        """Return rewards (beta times the log-probability per token) and the log odds ratio."""
        return self._tally.take()

    def _is_learned(self, batch: PairBatch) -> Tensor:
        """Return where a target counts in the cross-entropy [B, T]."""
        sequences = batch.sequences
        documents_BT = sequences.documents_BT
        is_chosen_BT = (documents_BT >= 0) & (documents_BT < batch.num_pairs)
        has_target_BT = sequences.targets_BT != IGNORE
        counts_BT = has_target_BT if self._config.learn_prompt else sequences.in_answer_BT
        return is_chosen_BT & counts_BT

    def _per_token(self, batches: Sequence[PairBatch]) -> float:
        tokens = sum(int(self._is_learned(batch).sum()) for batch in batches)
        return sum(batch.num_pairs for batch in batches) / max(1, tokens)


def log_odds_ratio(chosen_N: Tensor, rejected_N: Tensor) -> Tensor:
    """Return log(odds(chosen) / odds(rejected)) of two log-probabilities; odds(p) = p / (1 - p)."""
    chosen_N, rejected_N = chosen_N.clamp(max=-_LEAST), rejected_N.clamp(max=-_LEAST)
    return (chosen_N - rejected_N) - (torch.log1p(-chosen_N.exp()) - torch.log1p(-rejected_N.exp()))


def _answer_means(log_probs_BT: Tensor, sequences: Sequences) -> PairLogProbs:
    in_answers_BT = log_probs_BT * sequences.in_answer_BT
    sums_S = sums_by_document(in_answers_BT, sequences.documents_BT)
    return pair_log_probs(sums_S, sequences).per_token()

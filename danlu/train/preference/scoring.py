"""What the losses are made of: log-probabilities of answers, and means over a global batch."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from danlu.models.decoder import Decoder
from danlu.train.log_probs import sums_by_document, token_log_probs
from danlu.train.preference.batch import PairBatch, Sequences


@dataclass(frozen=True)
class PairLogProbs:
    """Summed log-probabilities of the answers of N pairs, float32, and their lengths in tokens."""

    chosen_N: Tensor
    rejected_N: Tensor
    chosen_lengths_N: Tensor
    rejected_lengths_N: Tensor

    def per_token(self) -> "PairLogProbs":
        """Return the means per token in the place of the sums."""
        return PairLogProbs(
            self.chosen_N / self.chosen_lengths_N,
            self.rejected_N / self.rejected_lengths_N,
            self.chosen_lengths_N,
            self.rejected_lengths_N,
        )


def answer_log_probs(model: Decoder, sequences: Sequences) -> Tensor:
    """Return the summed log-probability of each answer, float32 [S]."""
    hidden_BTD = model.packed_hidden(sequences.tokens_BT, sequences.documents_BT)
    log_probs_BT = token_log_probs(model, hidden_BTD, sequences.answers_BT())
    return sums_by_document(log_probs_BT, sequences.documents_BT)


def pair_log_probs(sums_S: Tensor, sequences: Sequences) -> PairLogProbs:
    """Return the sums of all answers as those of the chosen and of the rejected ones."""
    (chosen_N, rejected_N), lengths = sums_S.chunk(2), sequences.lengths_S.chunk(2)
    return PairLogProbs(chosen_N, rejected_N, *lengths)


def pairs_per_token(batches: Sequence[PairBatch]) -> float:
    """Return pairs per token of the chosen answers.

    A loss is summed over pairs and divided by their number in the global batch. A sum over tokens
    times this becomes the mean over all tokens of that global batch.
    """
    tokens = sum(batch.num_chosen_tokens for batch in batches)
    return sum(batch.num_pairs for batch in batches) / max(1, tokens)


@contextmanager
def evaluating(model: Decoder) -> Iterator[None]:
    """Without gradients, dropout and noise, for as long as it lasts."""
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(was_training)


class Tally:
    """Means of what was measured over the batches of a step; adding waits for no device."""

    def __init__(self) -> None:
        self._sums: dict[str, list[Tensor]] = {}
        self._counts: dict[str, int] = {}

    def add(self, **values: Tensor) -> None:
        """Add values [N] to be averaged, by the name they are reported under."""
        for name, values_N in values.items():
            self._sums.setdefault(name, []).append(values_N.detach().double().sum())
            self._counts[name] = self._counts.get(name, 0) + values_N.numel()

    def add_rewards(self, chosen_N: Tensor, rejected_N: Tensor) -> None:
        """Add the rewards of pairs: both, their margin, and how often the chosen one is higher."""
        self.add(
            reward_margin=chosen_N - rejected_N,
            reward_accuracy=chosen_N > rejected_N,
            reward_chosen=chosen_N,
            reward_rejected=rejected_N,
        )

    def take(self) -> dict[str, float]:
        """Return the means and forget them; what was never added with a value is left out."""
        means = {
            name: float(torch.stack(parts).sum()) / self._counts[name]
            for name, parts in self._sums.items()
            if self._counts[name]
        }
        self._sums, self._counts = {}, {}
        return means

"""The model that the policy is compared with: stored, itself without its adapter, another, none."""

from typing import Protocol

import torch
from torch import Tensor

from danlu.adapters.handling import disabled
from danlu.models.decoder import Decoder
from danlu.train.preference.batch import Sequences
from danlu.train.preference.scoring import answer_log_probs, evaluating


class Reference(Protocol):
    """What the reference model thinks of answers."""

    def log_probs(self, policy: Decoder, sequences: Sequences) -> Tensor:
        """Return the summed log-probability of each answer, float32 [S], without gradient."""


class Stored:
    """Computed once before training, and read with the batch."""

    def log_probs(self, policy: Decoder, sequences: Sequences) -> Tensor:
        """Return what came with the batch."""
        assert sequences.reference_S is not None, "the source gives no stored log-probabilities"
        return sequences.reference_S


class WithoutAdapter:
    """The policy with its adapters switched off: no second copy of the base."""

    def log_probs(self, policy: Decoder, sequences: Sequences) -> Tensor:
        """Return what the base says."""
        with evaluating(policy), disabled(policy):
            return answer_log_probs(policy, sequences)


class Other:
    """A second model, which stays as it is."""

    def __init__(self, model: Decoder) -> None:
        self._model = model.eval()

    def log_probs(self, policy: Decoder, sequences: Sequences) -> Tensor:
        """Return what the other model says."""
        with evaluating(self._model):
            return answer_log_probs(self._model, sequences)


class Nobody:
    """A model that finds every answer equally likely: no reference at all."""

    def log_probs(self, policy: Decoder, sequences: Sequences) -> Tensor:
        """Return zeros."""
        return torch.zeros(len(sequences.last_S), device=sequences.last_S.device)

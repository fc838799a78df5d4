"""Pairs and judgements as tensors: all sequences of a micro-batch packed into one row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import torch
from torch import Tensor

from danlu.data.batch import IGNORE, PADDING
from danlu.data.preferences import AnsweredPrompt, Comparison, Judgement
from danlu.tokenizer.chat.training import NOT_LEARNED

LENGTH_STEP = 32  # kernels are prepared once per shape


@dataclass(frozen=True)
class Sequences:
    """S prompts with an answer, one behind the other in a single row (B = 1).

    Attributes:
        tokens_BT: token ids; 0 on padding, which is at the end.
        targets_BT: the id to predict after each token, of prompts too; `IGNORE` after the last
            token of a sequence and on padding.
        documents_BT: number of the sequence, 0 to S - 1; `PADDING` on padding.
        in_answer_BT: whether the target belongs to an answer.
        last_S: place of the last token of each sequence.
        lengths_S: how many targets of each sequence belong to its answer.
        reference_S: summed log-probability of each answer by a reference model, float32; None
            where it was not computed beforehand.
    """

    tokens_BT: Tensor
    targets_BT: Tensor
    documents_BT: Tensor
    in_answer_BT: Tensor
    last_S: Tensor
    lengths_S: Tensor
    reference_S: Tensor | None = None

    def answers_BT(self) -> Tensor:
        """Return the targets that belong to an answer, `IGNORE` elsewhere."""
        return self.targets_BT.masked_fill(~self.in_answer_BT, IGNORE)

    def to(self, device: torch.device | str) -> Self:
        """Return the same on `device`."""
        moved = {key: value.to(device) for key, value in vars(self).items() if value is not None}
        return replace(self, **moved)


@dataclass(frozen=True)
class PairBatch:
    """N pairs.

    Attributes:
        sequences: the N chosen answers, then the N rejected ones.
        margins_N: by how much each was preferred, float32; None where rows do not say.
    """

    sequences: Sequences
    margins_N: Tensor | None = None

    def to(self, device: torch.device | str) -> Self:
        """Return the same on `device`."""
        margins_N = None if self.margins_N is None else self.margins_N.to(device)
        return replace(self, sequences=self.sequences.to(device), margins_N=margins_N)

    @property
    def num_pairs(self) -> int:
        """N."""
        return len(self.sequences.last_S) // 2

    @property
    def num_chosen_tokens(self) -> int:
        """How many tokens the chosen answers have."""
        return int(self.sequences.lengths_S[: self.num_pairs].sum())


@dataclass(frozen=True)
class JudgedBatch:
    """N answers that were found good or bad.

    Attributes:
        sequences: the answers.
        desirable_N: which were found good.
        mismatched: N answers behind prompts they do not belong to; None if nobody asks for them.
    """

    sequences: Sequences
    desirable_N: Tensor
    mismatched: Sequences | None = None

    def to(self, device: torch.device | str) -> Self:
        """Return the same on `device`."""
        mismatched = None if self.mismatched is None else self.mismatched.to(device)
        desirable_N = self.desirable_N.to(device)
        return replace(
            self,
            sequences=self.sequences.to(device),
            desirable_N=desirable_N,
            mismatched=mismatched,
        )


def collate_pairs(
    pairs: Sequence[Comparison], reference: Sequence[Sequence[float]] | None = None
) -> PairBatch:
    """Return pairs as a batch.

    Args:
        pairs: N of them.
        reference: for each, the reference's log-probability of the chosen and the rejected answer.
    """
    answers = [pair.chosen for pair in pairs] + [pair.rejected for pair in pairs]
    values = None if reference is None else [one[side] for side in (0, 1) for one in reference]
    stated = [pair.margin for pair in pairs if pair.margin is not None]
    margins = torch.tensor([pair.margin or 0.0 for pair in pairs]) if stated else None
    return PairBatch(collate_sequences(answers, values), margins)


def collate_judgements(
    judgements: Sequence[Judgement], reference: Sequence[Sequence[float]] | None = None
) -> JudgedBatch:
    """Return judgements as a batch.

    Args:
        judgements: N of them.
        reference: for each, the reference's log-probability of the answer, and of the mismatched
            one if there is one.
    """
    columns = [None, None] if reference is None else [*zip(*reference, strict=True), None][:2]
    mismatched = [one.mismatched for one in judgements if one.mismatched is not None]
    return JudgedBatch(
        collate_sequences([one.answer for one in judgements], columns[0]),
        torch.tensor([one.desirable for one in judgements]),
        collate_sequences(mismatched, columns[1]) if mismatched else None,
    )


def collate_sequences(
    answered: Sequence[AnsweredPrompt], reference: Sequence[float] | None = None
) -> Sequences:
    """Return prompts with answers in one row, with what a reference model thinks of each."""
    lengths = [len(sequence.ids) for sequence in answered]
    width = -(-sum(lengths) // LENGTH_STEP) * LENGTH_STEP
    tokens, targets, documents = (np.full(width, fill) for fill in (0, IGNORE, PADDING))
    in_answer = np.zeros(width, bool)
    start = 0
    for number, sequence in enumerate(answered):
        end = start + len(sequence.ids)
        labels = np.asarray(sequence.labels[1:])
        judged = labels != NOT_LEARNED
        tokens[start:end], documents[start:end] = sequence.ids, number
        targets[start : end - 1] = np.where(judged, labels, sequence.ids[1:])
        in_answer[start : end - 1] = judged
        start = end
    return Sequences(
        torch.from_numpy(tokens)[None],
        torch.from_numpy(targets)[None],
        torch.from_numpy(documents)[None],
        torch.from_numpy(in_answer)[None],
        last_S=torch.tensor(lengths).cumsum(0) - 1,
        lengths_S=torch.tensor([sequence.answer_length for sequence in answered]),
        reference_S=None if reference is None else torch.tensor(reference, dtype=torch.float32),
    )

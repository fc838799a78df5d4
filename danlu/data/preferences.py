"""Preferences as tokens: a prompt with one answer, two answers compared, an answer judged."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from danlu.errors import DataError
from danlu.tokenizer.chat.training import NOT_LEARNED


@dataclass(frozen=True)
class AnsweredPrompt:
    """The tokens of a prompt with one answer.

    Attributes:
        ids: all tokens.
        labels: the id to be predicted at each token that is part of the judged answer, and
            `NOT_LEARNED` elsewhere.
    """

    ids: list[int]
    labels: list[int]

    @property
    def prompt_length(self) -> int:
        """How many tokens stand before the first one that is judged."""
        judged = (at for at, label in enumerate(self.labels) if label != NOT_LEARNED)
        return next(judged, len(self.ids))

    @property
    def prompt(self) -> list[int]:
        """The tokens before the first one that is judged."""
        return self.ids[: self.prompt_length]

    @property
    def answer_length(self) -> int:
        """How many tokens are judged; the first of all is not, as nothing comes before it."""
        return sum(label != NOT_LEARNED for label in self.labels[1:])

    def cut(self, max_tokens: int) -> "AnsweredPrompt":
        """Return the beginning, of at most `max_tokens`."""
        return AnsweredPrompt(self.ids[:max_tokens], self.labels[:max_tokens])


@dataclass(frozen=True)
class Comparison:
    """A preferred answer and another one, behind the same prompt.

    Attributes:
        chosen: the preferred one.
        rejected: the other one.
        origin: where it comes from, as ``file:line``.
        margin: by how much it was preferred, where the row says so.
    """

    chosen: AnsweredPrompt
    rejected: AnsweredPrompt
    origin: str
    margin: float | None = None

    def sequences(self) -> list[AnsweredPrompt]:
        """Return everything that is run through the model, in a fixed order."""
        return [self.chosen, self.rejected]


@dataclass(frozen=True)
class Judgement:
    """An answer that was found good or bad.

    Attributes:
        answer: behind its prompt.
        desirable: was it found good?
        origin: where it comes from, as ``file:line``.
        mismatched: the answer of the example before, behind this one's prompt; None where no
            objective asks for it.
    """

    answer: AnsweredPrompt
    desirable: bool
    origin: str
    mismatched: AnsweredPrompt | None = None

    def sequences(self) -> list[AnsweredPrompt]:
        """Return everything that is run through the model, in a fixed order."""
        return [self.answer, *([] if self.mismatched is None else [self.mismatched])]


Example = Comparison | Judgement


def with_mismatched(judgements: Sequence[Judgement], max_seq_len: int) -> list[Judgement]:
    """Give each judgement the answer of the one before it (the first: of the last), as in TRL.

    Raises:
        DataError: for a single judgement, which has no other to take an answer from.
    """
    if len(judgements) == 1:
        raise DataError(
            f"{judgements[0].origin} is the only example; KTO estimates its KL term from answers "
            "to other prompts and expected at least two. Add examples, or use loss "
            "apo_zero_unpaired."
        )
    others = [*judgements[-1:], *judgements[:-1]]
    return [
        replace(judgement, mismatched=_behind(judgement.answer, other.answer).cut(max_seq_len))
        for judgement, other in zip(judgements, others, strict=True)
    ]


def _behind(prompt: AnsweredPrompt, other: AnsweredPrompt) -> AnsweredPrompt:
    """Return the answer of `other` behind the prompt of `prompt`."""
    start, ids = other.prompt_length, prompt.prompt
    labels = [NOT_LEARNED] * len(ids)
    return AnsweredPrompt([*ids, *other.ids[start:]], [*labels, *other.labels[start:]])

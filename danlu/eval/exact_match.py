"""Accuracy on questions with one right answer: the model's answer must be that text.

Both texts are stripped of white space at their ends; otherwise they must be equal, character for
character.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.data.examples import Conversation
from danlu.engine.llm import LLM, Generation
from danlu.engine.sampling import SamplingParams
from danlu.errors import DataError, bullet_list
from danlu.progress import Progress
from danlu.tokenizer import Tokenizer


@dataclass(frozen=True)
class AnswerSample:
    """One question with the expected and the given answer, both stripped."""

    prompt: str
    expected: str
    got: str
    correct: bool
    kind: str = ""
    origin: str = ""


@dataclass(frozen=True)
class Tally:
    """How many of some answers were right."""

    correct: int
    total: int

    @property
    def accuracy(self) -> float:
        """The share that was right, 0 to 1."""
        return self.correct / self.total

    @property
    def stderr(self) -> float:
        """The standard error of the accuracy (binomial)."""
        return math.sqrt(self.accuracy * (1 - self.accuracy) / self.total)


@dataclass(frozen=True)
class ExactMatch(Tally):
    """The tally of all answers, of each kind of question, and the answers themselves in order."""

    by_kind: dict[str, Tally]
    samples: list[AnswerSample]


def exact_match(
    llm: LLM,
    conversations: Sequence[Conversation],
    params: SamplingParams | None = None,
    progress: Progress | None = None,
) -> ExactMatch:
    """Ask the model for the last message of each conversation, given everything before it.

    Args:
        llm: the model.
        conversations: each ends with the assistant's expected answer.
        params: None: greedy, with room for twice the tokens of the expected answer and a few more;
            an answer that is longer is wrong anyway.
        progress: counts answers.

    Raises:
        DataError: if there are no conversations, or some have nothing to answer or no answer; lists
            them.
    """
    _check(conversations)
    every = [params or _greedy_for(c, llm.tokenizer) for c in conversations]
    questions = [conversation.messages[:-1] for conversation in conversations]
    answers = llm.chat(questions, every, progress=progress)
    return tally_samples(
        [_sample(c, answer) for c, answer in zip(conversations, answers, strict=True)]
    )


def tally_samples(samples: list[AnswerSample]) -> ExactMatch:
    """Count samples (at least one), together and by kind."""
    kinds = sorted({sample.kind for sample in samples if sample.kind})
    by_kind = {kind: _tally([s for s in samples if s.kind == kind]) for kind in kinds}
    total = _tally(samples)
    return ExactMatch(total.correct, total.total, by_kind, samples)


def _tally(samples: Sequence[AnswerSample]) -> Tally:
    return Tally(sum(sample.correct for sample in samples), len(samples))


def _greedy_for(conversation: Conversation, tokenizer: Tokenizer) -> SamplingParams:
    expected = len(tokenizer.encode(conversation.messages[-1]["content"]))
    return SamplingParams(temperature=0.0, max_tokens=2 * expected + 8)


def _sample(conversation: Conversation, answer: Generation) -> AnswerSample:
    expected, got = conversation.messages[-1]["content"].strip(), answer.text.strip()
    return AnswerSample(
        prompt=conversation.messages[-2]["content"],
        expected=expected,
        got=got,
        correct=got == expected,
        kind=conversation.kind,
        origin=conversation.origin,
    )


def _check(conversations: Sequence[Conversation]) -> None:
    wrong = [
        f"{c.origin}: roles {[m['role'] for m in c.messages]}"
        for c in conversations
        if len(c.messages) < 2 or c.messages[-1]["role"] != "assistant"
    ]
    if wrong or not conversations:
        raise DataError(
            f"Exact match needs questions with an answer; found {len(conversations)} "
            f"conversations, {len(wrong)} of them without one:{bullet_list(wrong)}\n"
            "Expected at least one, each ending with an assistant message after another message."
        )

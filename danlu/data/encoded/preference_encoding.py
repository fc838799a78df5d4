"""From preference pairs and labelled answers to tokens.

Both answers of a pair stand behind the same ids of the prompt. One that is too long is shortened as
a conversation is (`danlu.tokenizer.chat.training`): the oldest rounds of the prompt go, then the
end of the question, then the end of the answer. The longer answer of a pair decides what its
prompt loses, and both lose it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from danlu.data.examples import ASSISTANT, LabelledAnswer, Message, PreferencePair, Tool
from danlu.data.ledger import Ledger
from danlu.data.preferences import AnsweredPrompt, Comparison, Judgement
from danlu.errors import DataError, bullet_list
from danlu.progress import Progress, Silent, working
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat.training import TrainingText, render_training


@dataclass(frozen=True)
class Rendering:
    """How conversations become tokens, and how long they may be.

    Attributes:
        tokenizer: encodes and names the chat format.
        max_seq_len: tokens of the longest sequence.
        chat_format: as in `Tokenizer.render_chat`.
        long: what happens to longer examples.
    """

    tokenizer: Tokenizer
    max_seq_len: int
    chat_format: str | None = None
    long: Literal["truncate", "drop"] = "truncate"

    def fitted(
        self,
        prompt: Sequence[Message],
        answers: Sequence[Sequence[Message]],
        tools: Sequence[Tool] | None,
    ) -> "Fitted":
        """Return the prompt with each answer, shortened alike where one is too long."""
        texts = [self._text(prompt, answer, tools) for answer in answers]
        sizes = [len(text.labels) for text in texts]
        longest = sizes.index(max(sizes))
        if sizes[longest] <= self.max_seq_len:
            return Fitted.of(texts, self.max_seq_len)
        short = self._text(prompt, answers[longest], tools, self.max_seq_len)
        if short.problem:
            return Fitted([], problem=short.problem)
        kept = [dict(message) for message in short.messages[: -len(answers[longest])]]
        texts = [self._text(kept, answer, tools) for answer in answers]
        texts[longest] = short
        return Fitted.of(texts, self.max_seq_len, short.shortened)

    def _text(
        self,
        prompt: Sequence[Message],
        answer: Sequence[Message],
        tools: Sequence[Tool] | None,
        max_tokens: int | None = None,
    ) -> TrainingText:
        return render_training(
            self.tokenizer,
            [*map(_not_judged, prompt), *answer],
            tools=tools,
            format=self.chat_format,
            max_tokens=max_tokens,
            long=self.long,
        )


@dataclass(frozen=True)
class Fitted:
    """Prompts with their answers, what they lost to fit, and why they cannot be used."""

    sequences: list[AnsweredPrompt]
    shortened: str = ""
    problem: str = ""

    @classmethod
    def of(cls, texts: Sequence[TrainingText], max_tokens: int, shortened: str = "") -> "Fitted":
        """Return rendered texts, of which at most `max_tokens` are used."""
        sequences = [
            AnsweredPrompt(list(text.rendered.ids), text.labels).cut(max_tokens) for text in texts
        ]
        problems = (_problem(*both) for both in zip(texts, sequences, strict=True))
        return cls(sequences, shortened, next(filter(None, problems), "") or _unequal(sequences))


def _problem(text: TrainingText, sequence: AnsweredPrompt) -> str:
    if text.problem:
        return text.problem
    if text.weights is not None:
        return "a turn has a weight, which means nothing in a preference"
    return "" if sequence.answer_length else "no token of an answer to learn from"


def _unequal(sequences: Sequence[AnsweredPrompt]) -> str:
    """Return what is wrong with two answers to one prompt."""
    first, *others = sequences
    if first in others:
        return "both answers become the same tokens"
    if any(other.prompt != first.prompt for other in others):
        return "the chat format writes the prompt differently before the two answers"
    return ""


def encode_comparisons(
    pairs: Sequence[PreferencePair],
    rendering: Rendering,
    ledger: Ledger,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Return the pairs as tokens; the ledger tells which are shortened or dropped.

    Raises:
        DataError: listing every pair whose answers are equal.
        TokenizerError: for a conversation that cannot be rendered.
    """
    _refuse_equal(pairs)
    comparisons = []
    with working(progress or Silent(), "encode pairs", len(pairs)) as report:
        for pair in pairs:
            fitted = rendering.fitted(pair.prompt, [pair.chosen, pair.rejected], pair.tools)
            if _is_kept(fitted, pair.origin, ledger):
                chosen, rejected = fitted.sequences
                comparisons.append(Comparison(chosen, rejected, pair.origin, pair.margin))
            report.advance(1)
    return comparisons


def encode_judgements(
    answers: Sequence[LabelledAnswer],
    rendering: Rendering,
    ledger: Ledger,
    progress: Progress | None = None,
) -> list[Judgement]:
    """Return labelled answers as tokens; the ledger tells which are shortened or dropped.

    Raises:
        TokenizerError: for a conversation that cannot be rendered.
    """
    judgements = []
    with working(progress or Silent(), "encode answers", len(answers)) as report:
        for answer in answers:
            prompt, last = answer.messages[:-1], answer.messages[-1:]
            fitted = rendering.fitted(prompt, [last], answer.tools)
            if _is_kept(fitted, answer.origin, ledger):
                judgements.append(Judgement(fitted.sequences[0], answer.desirable, answer.origin))
            report.advance(1)
    return judgements


def labelled(pairs: Sequence[PreferencePair]) -> list[LabelledAnswer]:
    """Return pairs as labelled answers: all the good ones, then all the bad ones, as in TRL."""
    return [
        LabelledAnswer([*pair.prompt, *answer], desirable, pair.origin, pair.tools, pair.kind)
        for desirable in (True, False)
        for pair in pairs
        for answer in [pair.chosen if desirable else pair.rejected]
    ]


def _not_judged(message: Message) -> Message:
    return {**message, "loss": False} if message.get("role") == ASSISTANT else message


def _refuse_equal(pairs: Iterable[PreferencePair]) -> None:
    equal = [pair.origin for pair in pairs if _shown(pair.chosen) == _shown(pair.rejected)]
    if equal:
        raise DataError(
            f"{len(equal)} pairs prefer an answer to itself (chosen equals rejected):"
            f"{bullet_list(equal)}\nExpected two different answers. Correct or remove these rows."
        )


def _shown(messages: Iterable[Message]) -> list[Message]:
    """Return the messages without what only says how they count."""
    hidden = ("loss", "weight")
    return [{key: message[key] for key in message if key not in hidden} for message in messages]


def _is_kept(fitted: Fitted, origin: str, ledger: Ledger) -> bool:
    """Note what became of an example; return whether it is used."""
    if fitted.problem:
        ledger.drop(origin, "; ".join(filter(None, (fitted.shortened, fitted.problem))))
    elif fitted.shortened:
        ledger.truncate(origin, fitted.shortened)
    else:
        ledger.keep()
    return not fitted.problem

"""From preference pairs and labelled answers to tokens.

Both answers of a pair stand behind the same ids of the prompt. A pair that is too long loses the
oldest rounds of its prompt, the same in both; the system text and the last question are never cut.
Where that is not enough, the ends of the answers are cut, as TRL cuts them (``keep_start``).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from danlu.data.examples import ASSISTANT, LabelledAnswer, Message, PreferencePair, Tool
from danlu.data.ledger import Ledger
from danlu.data.preferences import AnsweredPrompt, Comparison, Judgement
from danlu.errors import DataError, bullet_list
from danlu.progress import Progress, Silent, working
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.chat.messages import rounds_of, split_system
from danlu.tokenizer.chat.training import render_training


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

    def answered(
        self,
        prompt: Iterable[Mapping[str, Any]],
        answer: Iterable[Message],
        tools: Sequence[Tool] | None,
    ) -> AnsweredPrompt:
        """Return the tokens of a prompt with an answer, of any length."""
        messages = [*map(_not_judged, prompt), *answer]
        text = render_training(self.tokenizer, messages, tools=tools, format=self.chat_format)
        return AnsweredPrompt(list(text.rendered.ids), text.labels)

    def fits(self, sequences: Iterable[AnsweredPrompt]) -> bool:
        """Return whether no sequence is too long."""
        return all(len(sequence.ids) <= self.max_seq_len for sequence in sequences)

    def fitted(
        self,
        prompt: Sequence[Message],
        answers: Sequence[Sequence[Message]],
        tools: Sequence[Tool] | None,
    ) -> tuple[list[AnsweredPrompt], str]:
        """Return the prompt with each answer, shortened alike; and what was left out, if anything.

        With the policy "drop" nothing is shortened, and why it should have been is returned.
        """
        whole = [self.answered(prompt, answer, tools) for answer in answers]
        if self.fits(whole):
            return whole, ""
        longest = max(len(sequence.ids) for sequence in whole)
        reason = f"{longest} tokens, more than max_seq_len {self.max_seq_len}"
        if self.long == "drop":
            return whole, reason
        system, turns = split_system(prompt)
        rounds = rounds_of(turns)
        for dropped in range(1, len(rounds)):
            kept = [*system, *(message for past in rounds[dropped:] for message in past)]
            whole = [self.answered(kept, answer, tools) for answer in answers]
            if self.fits(whole):
                return whole, f"{reason}; the {dropped} oldest rounds were left out"
        cut = [sequence.cut(self.max_seq_len) for sequence in whole]
        return cut, f"{reason}; only the last round is used, cut at the end"


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
            answers = [pair.chosen, pair.rejected]
            (chosen, rejected), left_out = rendering.fitted(pair.prompt, answers, pair.tools)
            problem = _pair_problem(chosen, rejected)
            if _is_kept(ledger, pair.origin, problem, left_out, rendering):
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
            (sequence,), left_out = rendering.fitted(prompt, [last], answer.tools)
            if _is_kept(ledger, answer.origin, _problem(sequence), left_out, rendering):
                judgements.append(Judgement(sequence, answer.desirable, answer.origin))
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


def _not_judged(message: Mapping[str, Any]) -> Message:
    return {**message, **({"loss": False} if message.get("role") == ASSISTANT else {})}


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


def _pair_problem(chosen: AnsweredPrompt, rejected: AnsweredPrompt) -> str:
    if chosen == rejected:
        return "both answers become the same tokens"
    if problem := _problem(chosen) or _problem(rejected):
        return problem
    if chosen.prompt != rejected.prompt:
        return "the chat format writes the prompt differently before the two answers"
    return ""


def _problem(sequence: AnsweredPrompt) -> str:
    return "" if sequence.answer_length else "no token of an answer to learn from"


def _is_kept(
    ledger: Ledger, origin: str, problem: str, left_out: str, rendering: Rendering
) -> bool:
    """Note what became of an example; return whether it is used."""
    if rendering.long == "drop" and left_out:
        ledger.drop(origin, left_out)
        return False
    if problem:
        ledger.drop(origin, "; ".join(filter(None, (left_out, problem))))
        return False
    if left_out:
        ledger.truncate(origin, left_out)
    else:
        ledger.keep()
    return True

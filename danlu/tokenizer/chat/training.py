"""A conversation to learn from: what `Tokenizer.render_chat` writes, and what is learned of it.

The ids are those of evaluation, chat and serving; only labels and weights are added here. Which
tokens are learned is in `danlu.tokenizer.chat.learning`, what happens to a conversation that is too
long in `danlu.tokenizer.chat.shortening`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from danlu.errors import TokenizerError, did_you_mean
from danlu.tokenizer.chat.chat_format import NOT_LEARNED, Message, Rendered, Tool
from danlu.tokenizer.chat.learning import (
    LEARN_MODES,
    Learn,
    check_learnable,
    check_training_keys,
    labels_of,
    learned_turns,
    unlearned_note,
    weights_of,
)
from danlu.tokenizer.chat.messages import check_list
from danlu.tokenizer.chat.shortening import Draft, Room, shorten

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

Long = Literal["truncate", "drop"]
LONG_MODES = ("truncate", "drop")
NOTHING_TO_LEARN = "no token to learn"

__all__ = ["NOT_LEARNED", "Learn", "Long", "TrainingText", "render_training"]


@dataclass(frozen=True)
class TrainingText:
    """A rendered conversation with what is learned of it.

    Attributes:
        rendered: the ids, as every other part of the program has them.
        labels: the id to learn at each token, `NOT_LEARNED` where nothing is. The first is of no
            use, since nothing comes before it.
        weights: how much each token counts; None: all 1.
        shortened: what was left out to make it fit, for the ledger; "" if nothing was.
        problem: why it cannot be trained on, for the ledger; "" if it can.
        unlearned: which answers are not learned though they were asked for, and why; "" for none.
        messages: what is left of the conversation.
    """

    rendered: Rendered
    labels: list[int]
    weights: list[float] | None = None
    shortened: str = ""
    problem: str = ""
    unlearned: str = ""
    messages: Sequence[Message] = field(default_factory=list)

    @property
    def num_learned(self) -> int:
        """How many tokens are learned."""
        return len(self.labels[1:]) - self.labels[1:].count(NOT_LEARNED)


def render_training(
    tokenizer: "Tokenizer",
    messages: Sequence[Message],
    *,
    tools: Sequence[Tool] | None = None,
    format: str | None = None,
    learn: Learn = "answers",
    max_tokens: int | None = None,
    long: Long = "truncate",
    max_prompt_tokens: int | None = None,
    template_options: Mapping[str, Any] | None = None,
) -> TrainingText:
    """Render a finished conversation and say what is learned of it.

    A message may say how it counts: `loss` (true or false) learns its content or not, whatever
    `learn` says; `weight` (0 or more, 0 as `loss` false) multiplies what its learned tokens count.

    A conversation that is too long loses its oldest rounds. Where the last round alone is too
    long, its question is cut to half of the room that system text, tools and marks leave (to more,
    if the answer needs less), then the answer to the remainder. The system text is never cut; an
    answer that was cut does not teach to stop where it was cut.

    Args:
        tokenizer: encodes and names the chat format.
        messages: the conversation; it ends with what the assistant says.
        tools: as in `Tokenizer.render_chat`.
        format: as in `Tokenizer.render_chat`.
        learn: every answer, the last one only, or every token.
        max_tokens: the most ids it may have; None: any number.
        long: what happens to a longer one: it is shortened, or it is a problem.
        max_prompt_tokens: the most ids in front of the answer of a round that is shortened, in
            place of the half (`src_length` of PaddleNLP).
        template_options: as in `Tokenizer.render_chat`.

    Raises:
        TokenizerError: for a conversation that cannot be rendered, a template that is not
            prefix-stable where an answer is to be learned, or options that are wrong.
    """
    check_list(messages)
    check_training_keys(messages)
    _check_choice("learn", learn, LEARN_MODES)
    _check_choice("long", long, LONG_MODES)
    form = tokenizer.format_of(format)
    check_learnable(messages, learn, form)
    needed = () if learn == "all" else None

    def draft(part: Sequence[Message]) -> Draft:
        wanted = learned_turns(part, learn)
        rendered = tokenizer.render_chat(
            part,
            tools,
            format,
            add_generation_prompt=False,
            template_options=template_options,
            learned_turns=wanted if needed is None else needed,
        )
        return Draft(part, rendered, labels_of(rendered, part, learn))

    whole = draft(messages)
    note = unlearned_note(whole.rendered, whole.labels, messages, learn)
    if max_tokens is None or len(whole.labels) <= max_tokens:
        return _finished(whole, note)
    if long == "drop":
        too_long = f"{len(whole.labels)} tokens, more than {max_tokens}"
        return replace(_finished(whole, note), problem=too_long)
    short = shorten(draft, whole, Room(max_tokens, max_prompt_tokens))
    if short.problem:
        return replace(_finished(whole, note), problem=short.problem)
    return replace(_finished(short.draft, note), shortened=short.what)


def _finished(draft: Draft, note: str) -> TrainingText:
    text = TrainingText(
        rendered=draft.rendered,
        labels=draft.labels,
        weights=weights_of(draft.rendered, draft.messages),
        unlearned=note,
        messages=draft.messages,
    )
    if text.num_learned:
        return text
    return replace(text, problem=f"{NOTHING_TO_LEARN}{': ' if note else ''}{note}")


def _check_choice(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise TokenizerError(
            f"{name} is {value!r}; expected {', '.join(known[:-1])} or {known[-1]}."
            f"{did_you_mean(str(value), known)}"
        )

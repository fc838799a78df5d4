"""Which characters of a Jinja template's text the assistant writes.

Three ways, in this order: a template that we know says what encloses its answers; one that marks
them with `{% generation %}` is believed; of any other, prefixes of the conversation are rendered
and compared.
"""

import logging
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.errors import TokenizerError
from danlu.tokenizer.chat.chat_format import ChatInput, Layout, LearnedSpan, Message

logger = logging.getLogger(__name__)

Render = Callable[[Any, bool], str]  # (messages, add_generation_prompt) -> text


@dataclass(frozen=True)
class Answers:
    """How a template that we know encloses what the assistant writes.

    Attributes:
        header: what stands in front of an answer; it begins with a control token.
        ends: what may end it, each begins with a control token; the end is learned too.
        drops_thoughts: are thoughts left out of answers once a later question follows?
    """

    header: str
    ends: tuple[str, ...]
    drops_thoughts: bool = False


def answers_of(messages: Sequence[Message]) -> list[int]:
    """Return the indices of the assistant's messages."""
    return [index for index, message in enumerate(messages) if message["role"] == "assistant"]


def enclosed_answers(
    layout: Layout, answers: Answers, messages: Sequence[Message]
) -> list[LearnedSpan]:
    """Return what stands between the header and the end of each answer, the end included.

    Control tokens tell, so that no text in a message looks like either. The open header of a
    prompt has no end, and nothing after it.
    """
    text = layout.text
    ends = [
        span.start + len(end)
        for span in layout.controls
        for end in answers.ends
        if text.startswith(end, span.start)
    ]
    starts = [
        span.start + len(answers.header)
        for span in layout.controls
        if text.startswith(answers.header, span.start)
    ]
    numbered = zip(starts, answers_of(messages), strict=False)  # a prompt's header has no message
    closed = [(start, bisect_right(ends, start), turn) for start, turn in numbered]
    return [LearnedSpan(start, ends[at], turn) for start, at, turn in closed if at < len(ends)]


def without_thoughts(layout: Layout, messages: Sequence[Message]) -> dict[int, str]:
    """Return which answers lack their thoughts in the text, and why they are not to be learned."""
    reason = (
        "its thoughts are left out once a later question follows, and without them it would teach "
        "to answer without thinking"
    )
    return {
        span.turn: reason
        for span in layout.learned
        if _thoughts(messages[span.turn]) not in layout.text[span.start : span.end]
    }


def _thoughts(message: Message) -> str:
    told = message.get("reasoning_content")
    if isinstance(told, str):
        return told.strip("\n")
    before, end, _ = (message.get("content") or "").partition("</think>")
    return before.rpartition("<think>")[2].strip("\n") if end else ""


def marked_answers(
    generated: Sequence[tuple[int, int]], messages: Sequence[Message]
) -> list[LearnedSpan] | None:
    """Return what `{% generation %}` encloses, None where that is not one stretch an answer."""
    turns = answers_of(messages)
    if not generated or len(generated) != len(turns):
        return None
    return [LearnedSpan(*span, turn) for span, turn in zip(generated, turns, strict=True)]


def answers_by_prefixes(
    render: Render, chat: ChatInput, text: str, origin: str
) -> list[LearnedSpan]:
    """Return what the assistant writes, found by rendering the conversation up to each answer.

    An answer that the template writes differently later on is left out of a prompt, and where it
    is not among the turns that are to be learned.

    Raises:
        TokenizerError: with the place of the first difference, for any other such answer.
    """
    spans = []
    for index in answers_of(chat.messages):
        try:
            spans.append(_span_by_prefixes(render, chat, index, text, origin))
        except TokenizerError as error:
            wanted = chat.learned_turns is None or index in chat.learned_turns
            if wanted and not chat.add_generation_prompt:
                raise
            logger.debug("an answer without loss mask: %s", error)
    return spans


def _span_by_prefixes(
    render: Render, chat: ChatInput, index: int, text: str, origin: str
) -> LearnedSpan:
    """Return the characters that the assistant writes in the message with that index.

    They begin where the prompt for that answer ends and end where the conversation up to that
    answer ends. Both must be prefixes of the whole text.
    """
    messages = chat.messages
    is_all = index == len(messages) - 1 and not chat.add_generation_prompt
    before = render(messages[:index], True)
    through = text if is_all else render(messages[: index + 1], False)
    for prefix, end in ((before, index), (through, index + 1)):
        if not text.startswith(prefix):
            raise TokenizerError(_unstable(prefix, text, end, origin))
    return LearnedSpan(len(before), max(len(before), len(through)), index)


def _unstable(prefix: str, text: str, end: int, origin: str) -> str:
    place = first_difference(prefix, text)
    return (
        f"The chat template of {origin} is not prefix-stable: messages[:{end}] alone and "
        f"in the whole conversation differ at character {place}: {near(prefix, place)} "
        f"became {near(text, place)}. No loss mask can be derived. Use another format, or "
        "train on conversations that end with this answer, or on last answers only (learn: last)."
    )


def first_difference(a: str, b: str) -> int:
    """Return the first place where two texts differ, or where the shorter one ends."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((index for index, (x, y) in pairs if x != y), min(len(a), len(b)))


def near(text: str, place: int) -> str:
    """Return the characters around a place, quoted."""
    return repr(text[max(0, place - 20) : place + 20])

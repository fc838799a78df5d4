"""Built-in chat formats as code: one function from a conversation to stretches of text."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from danlu.errors import ChatFormatError, TokenizerError, did_you_mean
from danlu.tokenizer.chat.chat_format import (
    CONTROL,
    NO_TURN,
    TURN,
    ChatInput,
    ContentSpan,
    ControlSpan,
    Layout,
    LearnedSpan,
    Message,
)
from danlu.tokenizer.chat.messages import check_messages, role_of
from danlu.tokenizer.chat.tool_messages import (
    TOOL_HINT,
    TOOL_KEYS,
    with_tool_role,
)

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer


@dataclass(frozen=True)
class Segment:
    """A stretch of text that a built-in format writes.

    Attributes:
        text: what is written.
        role: role of the message it is the content of, "control" for what the format adds.
        control: is it one control token?
        learn: is it something the assistant writes?
        alone: is it the beginning of a text that is encoded apart from what precedes it?
        token: the control token, where it is another than the text (or has no text).
        turn: index of the message that it is a part of (see `turn_of`).
        label: the control token that is learned in place of this one, "" for none.
    """

    text: str
    role: str = CONTROL
    control: bool = False
    learn: bool = False
    alone: bool = False
    token: str = ""
    turn: int = NO_TURN
    label: str = ""


@dataclass(frozen=True)
class Kept:
    """What a family's own rule keeps of a conversation.

    Attributes:
        messages: the messages that stay.
        last_ids: how many ids at the end stay; None for all.
    """

    messages: list[Message]
    last_ids: int | None = None


Measure = Callable[[list[Segment]], int]  # how many ids segments become
Truncation = Callable[[Sequence[Message], int, Measure], Kept]  # (messages, max_tokens, measure)


def hidden(token: str, learn: bool = False, turn: int = NO_TURN) -> Segment:
    """Return a control token that is in the ids and not in the text."""
    return Segment("", control=True, learn=learn, token=token, turn=turn)


def turn_of(message: Message) -> int:
    """Return the index that a message had in the conversation, `NO_TURN` for one made up."""
    turn: int = message.get(TURN, NO_TURN)
    return turn


def _no_problems(chat: ChatInput) -> list[str]:
    return []


@dataclass(frozen=True)
class SegmentFormat:
    """A built-in format: one function from a conversation to segments.

    Attributes:
        name: the name users choose it by.
        roles: roles it can write.
        stops: control tokens that end an assistant turn.
        segments: from a conversation to what is written.
        template: a Jinja template that writes the same text, saved with the tokenizer.
        problems: what is wrong with a conversation beside roles and contents.
        stop_texts: texts that end an answer, beside the control tokens.
        truncation: the family's own rule for a history that is too long.
        tool_role: what it calls the role of a tool's answer; "" if it cannot show tools.
        only_last: why only the last answer of a conversation is learned, "" if all are.
        sees_prompt_whole: does the model see every token of the prompt at once? Then none of them
            can be learned.
    """

    name: str
    roles: tuple[str, ...]
    stops: tuple[str, ...]
    segments: Callable[[ChatInput], list[Segment]]
    template: str | None = None
    problems: Callable[[ChatInput], list[str]] = _no_problems
    stop_texts: tuple[str, ...] = ()
    truncation: Truncation | None = None
    tool_role: str = ""
    only_last: str = ""
    sees_prompt_whole: bool = False

    def layout(self, tokenizer: "Tokenizer", chat: ChatInput) -> Layout:
        """Write a conversation.

        Raises:
            TokenizerError: for wrong messages, unknown options, or tools it cannot show.
        """
        if chat.tools and not self.tool_role:
            raise TokenizerError(
                f"The chat format {self.name!r} cannot show tools (got {len(chat.tools)}). "
                f"{TOOL_HINT}"
            )
        check_options(chat, (), f"the chat format {self.name!r}")
        chat = replace(chat, messages=with_tool_role(chat.messages, self.tool_role))
        self._check(chat)
        numbered = [{**message, TURN: index} for index, message in enumerate(chat.messages)]
        layout = layout_of(tokenizer, self.segments(replace(chat, messages=numbered)))
        if self.only_last:
            answers = [
                turn for turn, message in enumerate(numbered) if role_of(message) == "assistant"
            ]
            layout.unlearned.update(dict.fromkeys(answers[:-1], self.only_last))
        return layout

    def _check(self, chat: ChatInput) -> None:
        listed = isinstance(chat.messages, Sequence) and not isinstance(chat.messages, str)
        further = self.problems(chat) if listed else []
        keys = ("role", "content", *(TOOL_KEYS if self.tool_role else ()))
        check_messages(chat.messages, self.roles, keys, further)

    def end_of_turn(self, tokenizer: "Tokenizer") -> list[str]:
        """Return the control tokens that end an assistant turn."""
        return list(self.stops)


def check_options(chat: ChatInput, known: Sequence[str], origin: str) -> None:
    """Raise ChatFormatError for template options that nothing would read."""
    unknown = sorted(str(name) for name in set(chat.options) - set(known))
    if unknown:
        named = ", ".join(unknown)
        raise ChatFormatError(
            f"Unknown template options of {origin}: {named}. It reads "
            f"{', '.join(sorted(known)) or 'none'}.{did_you_mean(unknown[0], known)}"
        )


def layout_of(tokenizer: "Tokenizer", segments: Sequence[Segment]) -> Layout:
    """Join segments to a layout."""
    layout = Layout("".join(segment.text for segment in segments), [], [], [])
    start = 0
    for segment in segments:
        end = start + len(segment.text)
        if segment.control:
            layout.controls.append(_control_span(tokenizer, segment, start, end))
        elif segment.role != CONTROL:
            layout.contents.append(ContentSpan(start, end, segment.role, segment.turn))
        if segment.learn and end > start:
            touches = bool(layout.learned) and layout.learned[-1][1:] == (start, segment.turn)
            first = layout.learned.pop().start if touches else start
            layout.learned.append(LearnedSpan(first, end, segment.turn))
        if segment.alone:
            layout.beginnings.add(start)
        start = end
    return layout


def _control_span(tokenizer: "Tokenizer", segment: Segment, start: int, end: int) -> ControlSpan:
    token_id = tokenizer.control_id(segment.token or segment.text)
    label = tokenizer.control_id(segment.label) if segment.label else None
    return ControlSpan(start, end, token_id, segment.learn, segment.turn, label)

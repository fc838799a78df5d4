"""Conversations and what becomes of them: messages, layouts, rendered ids.

A chat format turns messages into a `Layout` (text, and which characters are control tokens, message
contents and learned answers); `danlu.tokenizer.rendering` turns a layout into ids.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from danlu.errors import TokenizerError, bullet_list, did_you_mean

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

Message: TypeAlias = Mapping[str, Any]
Tool: TypeAlias = Mapping[str, Any]
CONTROL = "control"


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens; the lists have one entry for each token.

    Attributes:
        ids: token ids, control tokens included.
        text: the whole text.
        roles: role of the message whose content the token begins in, else "control" (control
            tokens, role headers, separators).
        loss_mask: is the token one that the model learns to write?
        spans: `(start, end)` characters of `text`.
    """

    ids: list[int]
    text: str
    roles: list[str]
    loss_mask: list[bool]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class ControlSpan:
    """Characters of a layout that are one control token."""

    start: int
    end: int
    token_id: int


@dataclass(frozen=True)
class ContentSpan:
    """Characters of a layout that are the content of a message."""

    start: int
    end: int
    role: str


@dataclass(frozen=True)
class Layout:
    """A rendered text and what its characters are; spans are in order and do not overlap."""

    text: str
    controls: list[ControlSpan]
    contents: list[ContentSpan]
    learned: list[tuple[int, int]]


@dataclass(frozen=True)
class Segment:
    """A stretch of text that a built-in format writes.

    Attributes:
        text: what is written.
        role: role of the message it is the content of, "control" for what the format adds.
        control: is it one control token?
        learn: is it something the assistant writes?
    """

    text: str
    role: str = CONTROL
    control: bool = False
    learn: bool = False


class ChatFormat(Protocol):
    """A way to write conversations."""

    @property
    def name(self) -> str:
        """The name users choose it by."""

    @property
    def template(self) -> str | None:
        """The Jinja template that writes the same text, None if there is none."""

    def layout(
        self,
        tokenizer: "Tokenizer",
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        add_generation_prompt: bool,
    ) -> Layout:
        """Write a conversation; raises TokenizerError if it cannot be written."""

    def end_of_turn(self, tokenizer: "Tokenizer") -> list[str]:
        """Return the control tokens that end an assistant turn."""


@dataclass(frozen=True)
class SegmentFormat:
    """A built-in format: one function from a conversation to segments.

    Attributes:
        name: the name users choose it by.
        roles: roles it can write.
        stops: control tokens that end an assistant turn.
        segments: `(messages, add_generation_prompt) -> segments`.
        template: a Jinja template that writes the same text, saved with the tokenizer.
    """

    name: str
    roles: tuple[str, ...]
    stops: tuple[str, ...]
    segments: Callable[[Sequence[Message], bool], list[Segment]]
    template: str | None = None

    def layout(
        self,
        tokenizer: "Tokenizer",
        messages: Sequence[Message],
        tools: Sequence[Tool] | None,
        add_generation_prompt: bool,
    ) -> Layout:
        """Write a conversation.

        Raises:
            TokenizerError: for wrong messages, or tools, which no built-in format can show.
        """
        if tools:
            raise TokenizerError(
                f"The chat format {self.name!r} cannot show tools (got {len(tools)}). Use a model "
                "whose own template knows tools, or pass format= with such a .jinja file."
            )
        check_messages(messages, self.roles, allowed_keys=("role", "content"))
        return layout_of(tokenizer, self.segments(messages, add_generation_prompt))

    def end_of_turn(self, tokenizer: "Tokenizer") -> list[str]:
        """Return the control tokens that end an assistant turn."""
        return list(self.stops)


def layout_of(tokenizer: "Tokenizer", segments: Sequence[Segment]) -> Layout:
    """Join segments to a layout."""
    layout = Layout("".join(segment.text for segment in segments), [], [], [])
    start = 0
    for segment in segments:
        end = start + len(segment.text)
        if segment.control:
            token_id = tokenizer.control_id(segment.text)
            layout.controls.append(ControlSpan(start, end, token_id))
        elif segment.role != CONTROL:
            layout.contents.append(ContentSpan(start, end, segment.role))
        if segment.learn:
            layout.learned.append((start, end))
        start = end
    return layout


def check_messages(
    messages: Sequence[Message],
    roles: Sequence[str],
    allowed_keys: Sequence[str] | None = None,
) -> None:
    """Complain about everything wrong with a conversation at once.

    Args:
        messages: the conversation.
        roles: roles it may have.
        allowed_keys: keys a message may have, None for any (a template may read them).

    Raises:
        TokenizerError: naming the index of each wrong message.
    """
    if isinstance(messages, str | Mapping) or not isinstance(messages, Sequence):
        raise TokenizerError(
            f"A conversation is a list of messages; got {type(messages).__name__} "
            f'{messages!r:.80}. Expected [{{"role": "user", "content": "..."}}, ...].'
        )
    if not messages:
        raise TokenizerError("The conversation is empty. Expected at least one message.")
    problems = [
        f"messages[{index}]: {problem}"
        for index, message in enumerate(messages)
        for problem in _message_problems(message, roles, allowed_keys)
    ]
    if problems:
        raise TokenizerError(
            f"The conversation cannot be rendered:{bullet_list(problems)}\n"
            'Each message needs {"role": ..., "content": text}.'
        )


def _message_problems(
    message: Message, roles: Sequence[str], allowed_keys: Sequence[str] | None
) -> list[str]:
    if not isinstance(message, Mapping):
        return [f"is a {type(message).__name__}, expected an object"]
    problems = []
    role = message.get("role")
    if role not in roles:
        hint = did_you_mean(str(role), roles)
        problems.append(f"unknown role {role!r}, expected one of {', '.join(roles)}.{hint}")
    content = message.get("content")
    calls_only = content is None and bool(message.get("tool_calls")) and allowed_keys is None
    if not isinstance(content, str) and not calls_only:
        problems.append(f"content is {content!r:.80} ({type(content).__name__}), expected text")
    unknown = sorted(str(key) for key in set(message) - set(allowed_keys or message))
    if unknown:
        problems.append(f"this format cannot show {', '.join(unknown)}")
    return problems

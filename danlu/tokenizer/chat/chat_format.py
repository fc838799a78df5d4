"""Conversations and what becomes of them: messages, layouts, rendered ids.

A chat format turns a `ChatInput` into a `Layout` (text, and which characters are control tokens,
message contents and learned answers); `danlu.tokenizer.chat.rendering` turns a layout into ids.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer
    from danlu.tokenizer.chat.segments import Truncation

Message: TypeAlias = Mapping[str, Any]
Tool: TypeAlias = Mapping[str, Any]
CONTROL = "control"


@dataclass(frozen=True)
class Rendered:
    """A conversation as tokens; the lists have one entry for each token.

    Attributes:
        ids: token ids, control tokens included.
        text: the whole text; control tokens that a family adds to ids only are not in it.
        roles: role of the message whose content the token shows, else "control" (control tokens,
            role headers, separators).
        loss_mask: is the token one that the model learns to write?
        spans: `(start, end)` characters of `text`.
    """

    ids: list[int]
    text: str
    roles: list[str]
    loss_mask: list[bool]
    spans: list[tuple[int, int]]


@dataclass(frozen=True)
class ChatInput:
    """What is to be written.

    Attributes:
        messages: the conversation.
        add_generation_prompt: ask for an answer at the end?
        tools: JSON schemas of functions.
        options: what the format leaves open, such as `enable_thinking`.
    """

    messages: Sequence[Message]
    add_generation_prompt: bool = True
    tools: Sequence[Tool] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ControlSpan:
    """Characters of a layout that are one control token.

    A token that is not shown has none; `learn` then says whether the assistant writes it.
    """

    start: int
    end: int
    token_id: int
    learn: bool = False


@dataclass(frozen=True)
class ContentSpan:
    """Characters of a layout that are the content of a message."""

    start: int
    end: int
    role: str


@dataclass(frozen=True)
class Layout:
    """A rendered text and what its characters are; spans are in order and do not overlap.

    Attributes:
        text: the whole text.
        controls: the control tokens in it.
        contents: the contents of the messages.
        learned: what the assistant writes.
        beginnings: where a text of its own begins, which is encoded apart from what precedes it.
    """

    text: str
    controls: list[ControlSpan]
    contents: list[ContentSpan]
    learned: list[tuple[int, int]]
    beginnings: set[int] = field(default_factory=set)


class ChatFormat(Protocol):
    """A way to write conversations."""

    @property
    def name(self) -> str:
        """The name users choose it by."""

    @property
    def template(self) -> str | None:
        """The Jinja template that writes the same text, None if there is none."""

    @property
    def stop_texts(self) -> tuple[str, ...]:
        """Texts that end an answer, beside the control tokens."""

    @property
    def truncation(self) -> "Truncation | None":
        """The family's own rule for a history that is too long, None if it has none."""

    def layout(self, tokenizer: "Tokenizer", chat: ChatInput) -> Layout:
        """Write a conversation; raises TokenizerError if it cannot be written."""

    def end_of_turn(self, tokenizer: "Tokenizer") -> list[str]:
        """Return the control tokens that end an assistant turn."""

"""Conversations and what becomes of them: messages, layouts, rendered ids.

A chat format turns a `ChatInput` into a `Layout` (text, and which characters are control tokens,
message contents and learned answers); `danlu.tokenizer.chat.rendering` turns a layout into ids.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer
    from danlu.tokenizer.chat.segments import Truncation

Message: TypeAlias = Mapping[str, Any]
Tool: TypeAlias = Mapping[str, Any]
CONTROL = "control"
NO_TURN = -1
NOT_LEARNED = -100
TRAINING_KEYS = frozenset({"loss", "weight"})  # how a message counts in training; never shown
TURN = "turn"  # the key under which `SegmentFormat` hands its formats the index of a message


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
        turns: index of the message that the token shows or, written by the assistant, belongs to;
            `NO_TURN` for what the format adds on its own.
        labels: the id to learn at each token, `NOT_LEARNED` where nothing is: the id itself where
            `loss_mask` is set; some formats teach the end of an answer in place of what follows.
        unlearned: index of an answer that is better not learned -> why, for `render_training`.
    """

    ids: list[int]
    text: str
    roles: list[str]
    loss_mask: list[bool]
    spans: list[tuple[int, int]]
    turns: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    unlearned: Mapping[int, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ChatInput:
    """What is to be written.

    Attributes:
        messages: the conversation.
        add_generation_prompt: ask for an answer at the end?
        tools: JSON schemas of functions.
        options: what the format leaves open, such as `enable_thinking`.
        learned_turns: indices of the messages whose loss mask is needed; None: every answer's.
    """

    messages: Sequence[Message]
    add_generation_prompt: bool = True
    tools: Sequence[Tool] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    learned_turns: Collection[int] | None = None


@dataclass(frozen=True)
class ControlSpan:
    """Characters of a layout that are one control token.

    A token that is not shown has none; `learn` then says whether the assistant writes it. `turn` is
    the message that it belongs to, `label` the id to learn in its place, if any.
    """

    start: int
    end: int
    token_id: int
    learn: bool = False
    turn: int = NO_TURN
    label: int | None = None


@dataclass(frozen=True)
class ContentSpan:
    """Characters of a layout that are the content of the message with index `turn`."""

    start: int
    end: int
    role: str
    turn: int = NO_TURN


class LearnedSpan(NamedTuple):
    """Characters of a layout that the assistant writes for the message with index `turn`."""

    start: int
    end: int
    turn: int = NO_TURN


@dataclass(frozen=True)
class Layout:
    """A rendered text and what its characters are; spans are in order and do not overlap.

    Attributes:
        text: the whole text.
        controls: the control tokens in it.
        contents: the contents of the messages.
        learned: what the assistant writes.
        beginnings: where a text of its own begins, which is encoded apart from what precedes it.
        unlearned: index of an answer that is better not learned -> why.
    """

    text: str
    controls: list[ControlSpan]
    contents: list[ContentSpan]
    learned: list[LearnedSpan]
    beginnings: set[int] = field(default_factory=set)
    unlearned: dict[int, str] = field(default_factory=dict)


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

    @property
    def sees_prompt_whole(self) -> bool:
        """Does the model see a prompt at once, so that no token of it can be learned?"""

    def layout(self, tokenizer: "Tokenizer", chat: ChatInput) -> Layout:
        """Write a conversation; raises TokenizerError if it cannot be written."""

    def end_of_turn(self, tokenizer: "Tokenizer") -> list[str]:
        """Return the control tokens that end an assistant turn."""

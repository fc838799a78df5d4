"""What data is made of once it is read: texts, conversations, preference pairs, labelled answers.

A message is an object with a `role` (system, user, assistant or tool) and a `content`. It may also
have what its data set says about it:

* `tool_calls`: of an assistant, `[{"type": "function", "function": {"name": ..., "arguments":
  {...}}}, ...]`, each with an `id` where one was given; `content` may then be empty
* `name` and `tool_call_id`: of a tool's answer; `reasoning_content`: what was thought beforehand
* `loss` (true or false) and `weight` (a number, 0 or more): how the turn counts in training
"""

from dataclasses import dataclass
from typing import Any, TypeAlias

Message: TypeAlias = dict[str, Any]
Tool: TypeAlias = dict[str, Any]

SYSTEM, USER, ASSISTANT, TOOL = "system", "user", "assistant", "tool"


@dataclass(frozen=True)
class Document:
    """A text of the corpus and the ``file:line`` where it begins."""

    text: str
    origin: str


@dataclass(frozen=True)
class Conversation:
    """Messages in order, of which the last is the assistant's.

    Attributes:
        messages: the turns, perhaps after a system message.
        origin: where it comes from, as ``file:line``.
        kind: the group it is reported under; empty if the row names none.
        tools: the functions that were on offer, as `{"type": "function", "function": {"name",
            "description", "parameters"}}`; None where the row names none.
    """

    messages: list[Message]
    origin: str
    kind: str = ""
    tools: list[Tool] | None = None


@dataclass(frozen=True)
class PreferencePair:
    """Two ways on from one prompt, of which one was preferred.

    Attributes:
        prompt: the messages before both answers.
        chosen: the messages that were preferred, the first and the last from the assistant.
        rejected: the others, likewise.
        origin: where it comes from, as ``file:line``.
        tools: as in a `Conversation`.
        kind: the group it is reported under; empty if the row names none.
        margin: by how much it was preferred (the difference of the scores), where the row says so.
    """

    prompt: list[Message]
    chosen: list[Message]
    rejected: list[Message]
    origin: str
    tools: list[Tool] | None = None
    kind: str = ""
    margin: float | None = None


@dataclass(frozen=True)
class LabelledAnswer:
    """A conversation whose last answer was found good or bad, as KTO learns from it.

    Attributes:
        messages: the turns; the last is the assistant's and is the one that is judged.
        desirable: was it found good?
        origin: where it comes from, as ``file:line``.
        tools: as in a `Conversation`.
        kind: the group it is reported under; empty if the row names none.
    """

    messages: list[Message]
    desirable: bool
    origin: str
    tools: list[Tool] | None = None
    kind: str = ""

"""Calls of tools and their answers in a conversation, whatever a data set calls them.

A call is `{"type": "function", "function": {"name", "arguments"}}` (OpenAI's form) or that function
alone, in the `tool_calls` of an assistant's message. What the tool says follows in a message of the
role "tool", which is also called "function", "observation" or "ipython".
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from danlu.tokenizer.chat.chat_format import Message

TOOL_ROLES = ("tool", "function", "observation", "ipython")
TOOL_KEYS = ("tool_calls", "name", "tool_call_id")  # the last two: whose answer it is, by its place
TOOL_FORMATS = ("glm4-chat", "llama3.1-chat", "qwen1-react", "qwen2.5-chat", "qwen3-chat")
TOOL_HINT = (
    f"Tools can be shown by the formats {', '.join(TOOL_FORMATS)}, and by templates that know them."
)


class Call(NamedTuple):
    """A call: the name of the function, and its arguments as JSON."""

    name: str
    arguments: str


def calls_of(message: Message) -> list[Call]:
    """Return the calls of a message that `call_problems` has found nothing wrong with."""
    return [_call(entry) for entry in message.get("tool_calls") or ()]


def _call(entry: Mapping[str, Any]) -> Call:
    function = entry.get("function", entry)
    arguments = function.get("arguments", {})
    is_text = isinstance(arguments, str)
    return Call(
        function["name"], arguments if is_text else json.dumps(arguments, ensure_ascii=False)
    )


def call_problems(messages: Sequence[Message]) -> list[str]:
    """Return what is wrong with the calls of a conversation."""
    return [
        f"messages[{index}]: {problem}"
        for index, message in enumerate(messages)
        if isinstance(message, Mapping) and message.get("tool_calls")
        for problem in _problems(message)
    ]


def _problems(message: Message) -> list[str]:
    calls = message["tool_calls"]
    if message.get("role") != "assistant":
        return ["only the assistant makes calls"]
    if not isinstance(calls, list | tuple):
        return [f"tool_calls is {calls!r:.60}, expected a list"]
    return [
        f"tool_calls[{index}] is {call!r:.60}, expected a function with name and arguments"
        for index, call in enumerate(calls)
        if not _is_call(call)
    ]


def _is_call(call: object) -> bool:
    function = call.get("function", call) if isinstance(call, Mapping) else None
    return isinstance(function, Mapping) and isinstance(function.get("name"), str)


def tool_problems(tools: Sequence[Any]) -> list[str]:
    """Return what is wrong with the functions on offer."""
    return [
        f"tools[{index}] is {tool!r:.60}, expected a function with a name"
        for index, tool in enumerate(tools)
        if not _is_call(tool)
    ]


def with_tool_role(messages: Sequence[Message], role: str) -> Sequence[Message]:
    """Return the messages with every role that means a tool's answer called `role`."""
    if not role or not isinstance(messages, list | tuple):
        return messages
    return [
        {**message, "role": role}
        if isinstance(message, Mapping) and message.get("role") in TOOL_ROLES
        else message
        for message in messages
    ]

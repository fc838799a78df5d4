"""Calls that an answer spells as a line with a mark: `#text2image#`, `#InstructFace#`.

AquilaChat asks other models for pictures this way: the mark stands alone on a line, and what
follows it, up to the next mark, is for the model of that name (FlagAI, Aquila-chat sample data).
As a text such an answer is learned as it is written; as calls, any tool-calling chat can use it.
"""

import re
from collections.abc import Sequence

from danlu.data.examples import ASSISTANT, Message, Tool

# What the text behind a mark is called, and whether each of its lines is one item.
MARKS = {"text2image": ("prompt", False), "InstructFace": ("instructions", True)}

_MARK = re.compile(rf"^#({'|'.join(MARKS)})#\n", re.MULTILINE)


def tool_calls_of(content: str) -> tuple[str, list[Tool]]:
    """Return what an answer says before its first mark, and the calls that it spells.

    `text_of_calls` makes the same characters of them again.
    """
    text, *marked = _MARK.split(content)
    return text, [_call(name, said) for name, said in zip(marked[::2], marked[1::2], strict=True)]


def text_of_calls(text: str, calls: Sequence[Tool]) -> str:
    """Return the answer that spells the calls behind the text; undoes `tool_calls_of`.

    Raises:
        KeyError: if a call is of another function than those in `MARKS`.
    """
    return text + "".join(map(_spelled, calls))


def with_tool_calls(messages: Sequence[Message]) -> list[Message]:
    """Return the messages with the calls that answers spell as `tool_calls` beside the text."""
    return [_with_calls(message) for message in messages]


def _with_calls(message: Message) -> Message:
    if message["role"] != ASSISTANT or message.get("tool_calls"):
        return message
    text, calls = tool_calls_of(message["content"])
    return {**message, "content": text.rstrip("\n"), "tool_calls": calls} if calls else message


def _call(name: str, said: str) -> Tool:
    argument, is_list = MARKS[name]
    value = said.split("\n") if is_list else said
    return {"type": "function", "function": {"name": name, "arguments": {argument: value}}}


def _spelled(call: Tool) -> str:
    name, arguments = call["function"]["name"], call["function"]["arguments"]
    argument, is_list = MARKS[name]
    said = "\n".join(arguments[argument]) if is_list else arguments[argument]
    return f"#{name}#\n{said}"

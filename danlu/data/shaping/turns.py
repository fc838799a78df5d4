"""The turns of a row as messages, whatever its data set calls the speakers, and their order.

What a conversation must be: an optional system message; then a question of the user and an answer
of the assistant in turn, the answer last. An answer may call functions; the results of `tool` then
follow it, and another answer follows them. Results may also follow an answer that has its call in
its text, as ReAct writes it. Neighbouring calls, or an answer and its calls, which
some data sets write as two turns, become one message.
"""

from typing import Any

from danlu.data.examples import ASSISTANT, SYSTEM, TOOL, USER, Message
from danlu.data.shaping.fields import (
    BadRow,
    Row,
    described,
    list_of,
    number_of,
    present,
    text_of,
    truth_of,
)
from danlu.data.shaping.tools import calls_of
from danlu.errors import did_you_mean

CALL = "function_call"
ROLES = {
    "system": SYSTEM,
    "developer": SYSTEM,
    "user": USER,
    "human": USER,
    "assistant": ASSISTANT,
    "gpt": ASSISTANT,
    "chatgpt": ASSISTANT,
    "bot": ASSISTANT,
    "model": ASSISTANT,
    "tool": TOOL,
    "observation": TOOL,
    "function": TOOL,
    "ipython": TOOL,
    "function_call": CALL,
    "tool_call": CALL,
}
ROLE_KEYS, CONTENT_KEYS = ("role", "from"), ("content", "value")
KEPT_KEYS = ("name", "tool_call_id", "reasoning_content")
THOUGHT_KEYS = ("thinking", "reasoning")  # other names of reasoning_content


def messages_of(row: Row, key: str) -> list[Message]:
    """Return the turns listed under `key` as messages."""
    turns = list_of(row, key)
    messages = [message_of(turn, f"turn {at} of '{key}'") for at, turn in enumerate(turns, 1)]
    return _with_joined_calls(messages)


def message_of(turn: object, where: str) -> Message:
    """Return one turn, with its speaker and text under any of their usual names, as a message."""
    if not isinstance(turn, dict):
        raise BadRow(f"{where} is not an object but {described(turn)}")
    turn = present(turn)
    role, content = _role(turn, where), _content(turn, where)
    if role == CALL:
        message = {"role": ASSISTANT, "content": "", "tool_calls": calls_of(content, where)}
    else:
        message = {"role": role, "content": content, **_calls(turn, role, where)}
    thoughts = [turn[key] for key in THOUGHT_KEYS if isinstance(turn.get(key), str)]
    turn = {"reasoning_content": thoughts[0], **turn} if thoughts else turn
    kept = {key: turn[key] for key in KEPT_KEYS if isinstance(turn.get(key), str)}
    return {**message, **kept, **_emphasis(turn)}


def question(text: str) -> Message:
    """Return a message of the user."""
    return {"role": USER, "content": text}


def answer(text: str) -> Message:
    """Return a message of the assistant."""
    return {"role": ASSISTANT, "content": text}


def rounds(pairs: list[tuple[str, str]]) -> list[Message]:
    """Return pairs of question and answer as messages."""
    return [message for asked, said in pairs for message in (question(asked), answer(said))]


def system_of(*texts: object) -> list[Message]:
    """Return the first text that is not empty as a system message, in a list; else an empty one."""
    for text in texts:
        if text is not None and not isinstance(text, str):
            raise BadRow(f"the system message is not a text but {described(text)}")
        if text:
            return [{"role": SYSTEM, "content": text}]
    return []


def check_turns(messages: list[Message], last: str = ASSISTANT) -> None:
    """Refuse what no chat template can render: wrong order, no answer, an empty turn.

    Args:
        messages: the conversation.
        last: whose the last turn must be. For a prompt it is `USER`: then results of a tool may
            end it as well.
    """
    turns = messages[1:] if messages and messages[0]["role"] == SYSTEM else messages
    if not turns:
        raise BadRow("there is no turn")
    before: Message | None = None
    for number, message in enumerate(turns, start=1):
        _check_order(number, message, before)
        may_be_empty = message["role"] == TOOL or message.get("tool_calls")
        if not message["content"].strip() and not may_be_empty:
            raise BadRow(f"turn {number}, from {message['role']}, is empty")
        before = message
    ends = turns[-1]["role"]
    if last == ASSISTANT and ends != ASSISTANT:
        raise BadRow(f"the last turn is from the {ends}; there is no answer to learn")
    if last == USER and ends == ASSISTANT:
        raise BadRow("the prompt ends with an answer of the assistant; expected a question")


def mended(messages: list[Message]) -> list[Message]:
    """Return the conversation with what is usual in chat logs put in order.

    Neighbouring turns of one speaker are joined by a line end, answers before the first question
    and questions after the last answer are left out.
    """
    start = 1 if messages and messages[0]["role"] == SYSTEM else 0
    turns = messages[start:]
    while turns and turns[0]["role"] != USER:
        turns = turns[1:]
    while turns and turns[-1]["role"] != ASSISTANT:
        turns = turns[:-1]
    joined: list[Message] = []
    for message in turns:
        if joined and _can_join(joined[-1], message):
            text = f"{joined[-1]['content']}\n{message['content']}"
            joined[-1] = {**joined[-1], "content": text}
        else:
            joined.append(message)
    return messages[:start] + joined


def _role(turn: Row, where: str) -> str:
    key = next((key for key in ROLE_KEYS if key in turn), None)
    if key is None:
        raise BadRow(f"{where} has no 'role' or 'from'; its keys are {sorted(turn)}")
    role = ROLES.get(str(turn[key]).lower())
    if role is None:
        hint = did_you_mean(str(turn[key]).lower(), ROLES)
        raise BadRow(f"{where} has the role {turn[key]!r}; expected user or assistant, say.{hint}")
    return role


def _content(turn: Row, where: str) -> str:
    key = next((key for key in CONTENT_KEYS if key in turn), None)
    if key is None:
        if "tool_calls" in turn or "function_call" in turn:
            return ""
        raise BadRow(f"{where} has no 'content' or 'value'; its keys are {sorted(turn)}")
    if isinstance(turn[key], list):
        return "".join(_part(part, at, where) for at, part in enumerate(turn[key], start=1))
    try:
        return text_of(turn, key)
    except BadRow as error:
        raise BadRow(f"{where}: {error}") from None


def _part(part: object, number: int, where: str) -> str:
    if isinstance(part, str):
        return part
    kind = part.get("type", "text") if isinstance(part, dict) else described(part)
    if not isinstance(part, dict) or kind != "text" or not isinstance(part.get("text"), str):
        raise BadRow(f"part {number} of {where} is of the type {kind!r}; only text can be read")
    return str(part["text"])


def _calls(turn: Row, role: str, where: str) -> dict[str, Any]:
    calls = turn.get("tool_calls") or turn.get("function_call")
    if not calls:
        return {}
    if role != ASSISTANT:
        raise BadRow(f"{where} is from {role} and calls a function; only the assistant can")
    return {"tool_calls": calls_of(calls, where)}


def _emphasis(turn: Row) -> dict[str, Any]:
    """Return `loss` and `weight`, under our names, where the turn says how it counts."""
    found: dict[str, Any] = {}
    said = {key: truth_of(turn, key) for key in ("loss", "train", "training") if key in turn}
    if len(set(said.values())) > 1:
        raise BadRow(f"a turn says both that it is learned and that it is not: {said}")
    if said:
        found["loss"] = next(iter(said.values()))
    if "weight" in turn:
        found["weight"] = number_of(turn, "weight")
        if found["weight"] < 0:
            raise BadRow(f"'weight' is {found['weight']}; expected 0 or more")
    return found


def _with_joined_calls(messages: list[Message]) -> list[Message]:
    joined: list[Message] = []
    for message in messages:
        before = joined[-1] if joined else None
        calls_only = message.get("tool_calls") and not message["content"]
        if before is not None and calls_only and before["role"] == ASSISTANT:
            calls = [*before.get("tool_calls", []), *message["tool_calls"]]
            joined[-1] = {**before, **message, "content": before["content"], "tool_calls": calls}
        else:
            joined.append(message)
    return joined


def _check_order(number: int, message: Message, before: Message | None) -> None:
    role = message["role"]
    if role == SYSTEM:
        raise BadRow(f"turn {number} is a system message; expected one at most, in front of all")
    if before is None:
        expected: tuple[str, ...] = (USER,)
    elif before["role"] in (USER, TOOL):
        expected = (ASSISTANT,) if before["role"] == USER else (ASSISTANT, TOOL)
    else:
        expected = (TOOL,) if before.get("tool_calls") else (USER, TOOL)
    if role not in expected:
        raise BadRow(f"turn {number} is from {role}; expected {' or '.join(expected)}")


def _can_join(before: Message, message: Message) -> bool:
    plain = message["role"] in (USER, ASSISTANT) and message["role"] == before["role"]
    said = [{key: one[key] for key in one if key != "content"} for one in (before, message)]
    return plain and said[0] == said[1]

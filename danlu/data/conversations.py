"""Conversations to learn from, read from the row shapes that public data sets use.

A row is recognised by what it contains:

* ``messages``: ``[{"role": ..., "content": ...}, ...]``
* ``conversations``: ``[{"from": "human" | "gpt", "value": ...}, ...]``, with an optional ``system``
  (or ``instruction``, as the Aquila files call it) beside it
* ``prompt`` and ``response``
* ``instruction``, ``input`` (may be empty) and ``output``, with optional ``system`` and ``history``
* ``src`` and ``tgt``: two texts or two lists of equal length, with an optional ``context.system``

Keys beside these, such as an id, are notes of the data set and carry no text; a preference row
(``chosen``, ``rejected``, ``sort``, a true-or-false ``label``) is refused, since half of it must
not be learned.
"""

from collections.abc import Iterator
from pathlib import Path

from danlu.config.data import DataSource
from danlu.data.examples import Conversation, Message
from danlu.data.rows import Problems, raise_problems, read_rows
from danlu.errors import DataError

Row = dict[str, object]

ROLES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}
PREFERENCE_KEYS = ("chosen", "rejected", "sort")
EXPECTED = (
    "Expected a row with 'messages', 'conversations', 'prompt' and 'response', 'instruction' and "
    "'output', or 'src' and 'tgt': an optional system message, then user and assistant in turn, "
    "the assistant last. Fix or remove these rows."
)


class _BadRow(Exception):
    """Why a row is no conversation; becomes one line of the `DataError`."""


def read_conversations(source: Path | str | DataSource) -> Iterator[Conversation]:
    """Yield the conversations of a `.jsonl` file or of the list in a `.json` file, in order.

    Raises:
        DataError: if the file is missing or has no row, or any row is not a conversation; lists
            every bad row with its ``file:line``, after the last good one was yielded.
    """
    path = Path(source.path if isinstance(source, DataSource) else source)
    if path.suffix not in (".jsonl", ".json"):
        raise DataError(
            f"'{path}' cannot hold conversations; expected a .jsonl or .json file. "
            "Give instructions as one JSON object per line."
        )
    problems: Problems = []
    empty = True
    for origin, row in read_rows(path, problems):
        empty = False
        try:
            yield _conversation(row, origin)
        except _BadRow as error:
            problems.append(f"{origin}: {error}")
    raise_problems(problems, path, EXPECTED)
    if empty:
        raise DataError(f"'{path}' has no rows. {EXPECTED}")


def _conversation(row: object, origin: str) -> Conversation:
    if not isinstance(row, dict):
        raise _BadRow(f"a row is a {type(row).__name__}, not an object")
    _refuse_preference(row)
    messages = _messages(row)
    _check_turns(messages)
    kind = row.get("kind", "")
    return Conversation(messages, origin, kind if isinstance(kind, str) else "")


def _refuse_preference(row: Row) -> None:
    found = [key for key in PREFERENCE_KEYS if key in row]
    if isinstance(row.get("label"), bool):
        found.append("label")
    if found:
        raise _BadRow(f"a preference row ({', '.join(found)}) cannot be learned as it stands")


def _messages(row: Row) -> list[Message]:
    """Return the messages of a row of any known shape."""
    if "messages" in row:
        return _from_turns(row, "messages", "role", "content")
    if "conversations" in row:
        system = _system(row.get("system") or row.get("instruction"))
        return system + _from_turns(row, "conversations", "from", "value")
    if "prompt" in row or "response" in row:
        return _pairs([(_text(row, "prompt"), _text(row, "response"))])
    if "src" in row or "tgt" in row:
        return _from_src_tgt(row)
    if "instruction" in row or "output" in row:
        return _from_instruction(row)
    raise _BadRow(f"no known shape; its keys are {sorted(row)}")


def _from_turns(row: Row, key: str, role_key: str, text_key: str) -> list[Message]:
    turns = row[key]
    if not isinstance(turns, list):
        raise _BadRow(f"'{key}' is not a list")
    messages: list[Message] = []
    for number, turn in enumerate(turns, start=1):
        if not isinstance(turn, dict):
            raise _BadRow(f"turn {number} of '{key}' is not an object")
        role = ROLES.get(str(turn.get(role_key)).lower())
        if role is None:
            raise _BadRow(f"turn {number} has the role {turn.get(role_key)!r}")
        messages.append({"role": role, "content": _text(turn, text_key)})
    return messages


def _from_src_tgt(row: Row) -> list[Message]:
    sources, targets = _texts(row, "src"), _texts(row, "tgt")
    if len(sources) != len(targets):
        raise _BadRow(f"'src' has {len(sources)} texts and 'tgt' {len(targets)}")
    context = row.get("context") or {}
    if not isinstance(context, dict):
        raise _BadRow("'context' is not an object")
    return _system(context.get("system")) + _pairs(list(zip(sources, targets, strict=True)))


def _from_instruction(row: Row) -> list[Message]:
    question, more = _text(row, "instruction"), row.get("input") or ""
    if not isinstance(more, str):
        raise _BadRow("'input' is not a text")
    question = f"{question}\n{more}" if more else question
    history = row.get("history") or []
    if not isinstance(history, list):
        raise _BadRow("'history' is not a list")
    pairs = [_history_pair(turn) for turn in history]
    return _system(row.get("system")) + _pairs([*pairs, (question, _text(row, "output"))])


def _history_pair(turn: object) -> tuple[str, str]:
    if isinstance(turn, list) and len(turn) == 2:
        question, answer = turn
        if isinstance(question, str) and isinstance(answer, str):
            return question, answer
    raise _BadRow("'history' has an item that is not [question, answer]")


def _system(text: object) -> list[Message]:
    if text is None or text == "":
        return []
    if not isinstance(text, str):
        raise _BadRow("the system message is not a text")
    return [{"role": "system", "content": text}]


def _pairs(pairs: list[tuple[str, str]]) -> list[Message]:
    roles = ("user", "assistant")
    return [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(roles, pair, strict=True)
    ]


def _text(row: Row, key: str) -> str:
    if key not in row:
        raise _BadRow(f"'{key}' is missing")
    value = row[key]
    if not isinstance(value, str):
        raise _BadRow(f"'{key}' is not a text")
    return value


def _texts(row: Row, key: str) -> list[str]:
    value = row.get(key)
    texts = value if isinstance(value, list) else [_text(row, key)]
    if not all(isinstance(text, str) for text in texts):
        raise _BadRow(f"'{key}' holds something that is not a text")
    return texts


def _check_turns(messages: list[Message]) -> None:
    """Refuse what no chat template can render: wrong order, no answer, an empty turn."""
    turns = messages[1:] if messages and messages[0]["role"] == "system" else messages
    if not turns:
        raise _BadRow("there is no turn")
    for number, message in enumerate(turns):
        expected = ("user", "assistant")[number % 2]
        if message["role"] != expected:
            raise _BadRow(f"turn {number + 1} is from {message['role']}; expected {expected}")
        if not message["content"].strip():
            raise _BadRow(f"turn {number + 1}, from {expected}, is empty")
    if turns[-1]["role"] != "assistant":
        raise _BadRow("the last turn is from the user; there is no answer to learn")

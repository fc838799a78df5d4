"""One question and its answer: `prompt` or `question`; `response`, `completion` or `answer`.

The prompt may also be a list of messages, and the completion a list with the answer.
"""

from danlu.data.examples import Conversation, Message
from danlu.data.shaping.fields import BadRow, Row, text_of
from danlu.data.shaping.shape import Shape, conversation
from danlu.data.shaping.turns import answer, messages_of, question, system_of

QUESTIONS, ANSWERS = ("prompt", "question"), ("response", "completion", "answer")


def _read(row: Row, origin: str) -> list[Conversation]:
    messages = [*prompt_of(row), *said_in(row, _one_of(row, ANSWERS))]
    return [conversation(row, messages, origin)]


def prompt_of(row: Row) -> list[Message]:
    """Return the messages in front of the answer, after the system message beside them."""
    key = _one_of(row, QUESTIONS)
    asked = messages_of(row, key) if _is_list(row[key]) else [question(text_of(row, key))]
    return system_of(row.get("system")) + asked


def said_in(row: Row, key: str) -> list[Message]:
    """Return the answer under `key`, a text or a list of messages."""
    return messages_of(row, key) if _is_list(row[key]) else [answer(text_of(row, key))]


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _one_of(row: Row, keys: tuple[str, ...]) -> str:
    found = [key for key in keys if key in row]
    if len(found) != 1:
        said = f"both {' and '.join(found)}" if found else f"'{keys[0]}' is missing"
        raise BadRow(f"{said}; expected one of {', '.join(keys)}")
    return found[0]


def _is_prompt_response(row: Row) -> bool:
    if any(key in row for key in QUESTIONS) and any(key in row for key in ANSWERS):
        return True
    others = {"messages", "conversations", "instruction", "src", "tgt"}
    return ("prompt" in row or "completion" in row) and not others & row.keys()


SHAPE = Shape(
    gives=Conversation,
    summary="'prompt' and 'response' (or 'question'; 'completion', 'answer')",
    keys=("prompt", "response", "completion", "question", "answer"),
    recognises=_is_prompt_response,
    read=_read,
    aliases=("prompt_completion",),
)

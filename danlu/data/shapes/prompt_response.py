"""One question (`prompt`, `question`, `query`) and its answer (`response`, `completion`, `answer`).

The prompt may also be a list of messages, and the completion a list with the answer. `history`
holds the rounds before it, as in ChatGLM's scripts; `input` and `output` alone are such a pair too.
"""

from danlu.data.examples import Conversation, Message
from danlu.data.shapes.alpaca import history_of
from danlu.data.shaping.fields import BadRow, Row, text_of
from danlu.data.shaping.shape import Shape, conversation
from danlu.data.shaping.turns import answer, messages_of, question, rounds, system_of

QUESTIONS = ("prompt", "question", "query", "input")
ANSWERS = ("response", "completion", "answer", "output")
_OTHERS = frozenset(("messages", "conversations", "instruction", "src", "tgt"))


def _read(row: Row, origin: str) -> list[Conversation]:
    messages = [*prompt_of(row), *said_in(row, _one_of(row, ANSWERS))]
    return [conversation(row, messages, origin)]


def prompt_of(row: Row) -> list[Message]:
    """Return the messages in front of the answer, after the system message beside them."""
    key = _one_of(row, QUESTIONS)
    asked = messages_of(row, key) if _is_list(row[key]) else [question(text_of(row, key))]
    return system_of(row.get("system")) + rounds(history_of(row)) + asked


def said_in(row: Row, key: str) -> list[Message]:
    """Return the answer under `key`, a text or a list of messages."""
    return messages_of(row, key) if _is_list(row[key]) else [answer(text_of(row, key))]


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _one_of(row: Row, keys: tuple[str, ...]) -> str:
    found = [key for key in keys if key in row]
    found = [key for key in found if row[key] != ""] or found[:1]
    if len(found) != 1:
        said = f"both {' and '.join(found)}" if found else f"'{keys[0]}' is missing"
        raise BadRow(f"{said}; expected one of {', '.join(keys)}")
    return found[0]


def _is_prompt_response(row: Row) -> bool:
    *questions, _ = QUESTIONS
    *answers, _ = ANSWERS
    if any(key in row for key in questions) and any(key in row for key in answers):
        return True
    one_side = "prompt" in row or "completion" in row or {"input", "output"} <= row.keys()
    return one_side and not _OTHERS & row.keys()


SHAPE = Shape(
    gives=Conversation,
    summary="'prompt' and 'response' (or 'question'; 'completion', 'answer')",
    keys=(*QUESTIONS, *ANSWERS, "history"),
    recognises=_is_prompt_response,
    read=_read,
    aliases=("prompt_completion",),
)

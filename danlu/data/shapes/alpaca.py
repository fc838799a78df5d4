"""`instruction`, `input` (may be empty) and `output`, with `history` and `system` (Alpaca's form).

The question is the instruction and, on the next line, the input. Dolly's files name the last two
`context` and `response`.
"""

from danlu.data.examples import Conversation
from danlu.data.shaping.fields import BadRow, Row, list_of, optional_text, text_of
from danlu.data.shaping.shape import Shape, conversation
from danlu.data.shaping.turns import rounds, system_of


def _read(row: Row, origin: str) -> list[Conversation]:
    said = text_of(row, "response" if "response" in row else "output")
    pairs = [*history_of(row), (question_of(row), said)]
    return [conversation(row, system_of(row.get("system")) + rounds(pairs), origin)]


def question_of(row: Row) -> str:
    """Return the instruction and the input as one question."""
    more = optional_text(row, "input") or optional_text(row, "context")
    return f"{text_of(row, 'instruction')}\n{more}" if more else text_of(row, "instruction")


def history_of(row: Row) -> list[tuple[str, str]]:
    """Return the rounds before the question, from a list of [question, answer]."""
    return [_pair(turn) for turn in list_of(row, "history")] if row.get("history") else []


def _pair(turn: object) -> tuple[str, str]:
    if isinstance(turn, list) and len(turn) == 2:
        asked, said = turn
        if isinstance(asked, str) and isinstance(said, str):
            return asked, said
    raise BadRow("'history' has an item that is not [question, answer]")


def _is_alpaca(row: Row) -> bool:
    return "instruction" in row and not {"conversations", "messages", "instances"} & row.keys()


SHAPE = Shape(
    gives=Conversation,
    summary="'instruction', 'input' and 'output'",
    keys=("instruction", "input", "output", "history", "context", "response"),
    recognises=_is_alpaca,
    read=_read,
    aliases=("dolly",),
)

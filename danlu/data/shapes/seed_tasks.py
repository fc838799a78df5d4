"""`instruction` and `instances`: `[{"input", "output"}, ...]`, the seed tasks of self-instruct.

Each instance becomes a conversation of its own.
"""

from danlu.data.examples import Conversation
from danlu.data.shapes.alpaca import question_of
from danlu.data.shaping.fields import BadRow, Row, list_of, text_of
from danlu.data.shaping.shape import Shape, conversation
from danlu.data.shaping.turns import rounds, system_of


def _read(row: Row, origin: str) -> list[Conversation]:
    found = []
    for number, instance in enumerate(list_of(row, "instances"), start=1):
        if not isinstance(instance, dict):
            raise BadRow(f"instance {number} is not an object")
        one = {"instruction": row.get("instruction"), **instance}
        messages = rounds([(question_of(one), text_of(one, "output"))])
        found.append(conversation(row, system_of(row.get("system")) + messages, origin))
    return found


SHAPE = Shape(
    gives=Conversation,
    summary="'instruction' and 'instances': [{'input', 'output'}, ...]",
    keys=("instruction", "instances"),
    recognises=lambda row: "instruction" in row and "instances" in row,
    read=_read,
)

"""`conversations`: `[{"from": "human" | "gpt", "value": ...}, ...]`, as ShareGPT's files have it.

Qwen's and Baichuan2's files say user and assistant; Aquila's have the system text under
`instruction`, others under `system`. Calls are turns from `function_call`, results from
`observation`, and `tools` lists the functions, often as JSON text.
"""

from danlu.data.examples import Conversation
from danlu.data.shaping.fields import Row
from danlu.data.shaping.shape import Shape, conversation
from danlu.data.shaping.turns import messages_of, system_of


def _read(row: Row, origin: str) -> list[Conversation]:
    system = system_of(row.get("system"), row.get("instruction"))
    return [conversation(row, system + messages_of(row, "conversations"), origin)]


SHAPE = Shape(
    gives=Conversation,
    summary="'conversations': [{'from', 'value'}, ...]",
    keys=("conversations", "instruction"),
    recognises=lambda row: "conversations" in row,
    read=_read,
    aliases=("sharegpt",),
)

"""`messages`: `[{"role": ..., "content": ...}, ...]`, with `tools` beside them (OpenAI's form)."""

from danlu.data.examples import Conversation
from danlu.data.shaping.fields import Row
from danlu.data.shaping.shape import Shape, conversation
from danlu.data.shaping.turns import messages_of, system_of


def _read(row: Row, origin: str) -> list[Conversation]:
    return [conversation(row, system_of(row.get("system")) + messages_of(row, "messages"), origin)]


SHAPE = Shape(
    gives=Conversation,
    summary="'messages': [{'role', 'content'}, ...]",
    keys=("messages",),
    recognises=lambda row: "messages" in row,
    read=_read,
    aliases=("openai", "chatml"),
)

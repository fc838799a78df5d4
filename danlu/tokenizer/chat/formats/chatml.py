"""ChatML as Qwen writes it: `<|im_start|>role`, newline, content, `<|im_end|>`, newline.

Learned: the assistant's content, its `<|im_end|>` and the newline after it, as in Qwen's own
`finetune.py`; never the role header. No system message is made up where none is given.
"""

from danlu.tokenizer.chat.chat_format import CONTROL, NO_TURN, ChatInput, Message
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, turn_of

START = "<|im_start|>"
END = "<|im_end|>"
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation."""
    segments = [part for message in chat.messages for part in turn(message)]
    return segments + (header("assistant") if chat.add_generation_prompt else [])


def turn(message: Message, alone: bool = False) -> list[Segment]:
    """Return the segments of one message; `alone` encodes its content apart from the header."""
    role, number = message["role"], turn_of(message)
    learn = role == "assistant"
    return [
        *header(role),
        Segment(message["content"], role, learn=learn, alone=alone, turn=number),
        *end_of_turn(learn, number),
    ]


def header(role: str) -> list[Segment]:
    """Return what opens a message."""
    return [Segment(START, CONTROL, control=True), Segment(f"{role}\n")]


def end_of_turn(learn: bool, turn: int = NO_TURN) -> list[Segment]:
    """Return what closes a message, which is a part of it where it is learned."""
    number = turn if learn else NO_TURN
    return [
        Segment(END, control=True, learn=learn, turn=number),
        Segment("\n", learn=learn, turn=number),
    ]


FORMAT = SegmentFormat(
    name="chatml",
    roles=("system", "user", "assistant"),
    stops=(END,),
    segments=write,
    template=TEMPLATE,
)

"""ChatML as Qwen writes it: `<|im_start|>role`, newline, content, `<|im_end|>`, newline.

Learned: the assistant's content, its `<|im_end|>` and the newline after it, as in Qwen's own
`finetune.py`; never the role header. No system message is made up where none is given.
"""

from collections.abc import Sequence

from danlu.tokenizer.chat import CONTROL, Message, Segment, SegmentFormat

START = "<|im_start|>"
END = "<|im_end|>"
TEMPLATE = (
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def write(messages: Sequence[Message], add_generation_prompt: bool) -> list[Segment]:
    """Return the segments of a conversation."""
    segments = [part for message in messages for part in _turn(message["role"], message["content"])]
    return segments + (_header("assistant") if add_generation_prompt else [])


def _turn(role: str, content: str) -> list[Segment]:
    learn = role == "assistant"
    return [
        *_header(role),
        Segment(content, role, learn=learn),
        Segment(END, CONTROL, control=True, learn=learn),
        Segment("\n", CONTROL, learn=learn),
    ]


def _header(role: str) -> list[Segment]:
    return [Segment(START, CONTROL, control=True), Segment(f"{role}\n")]


FORMAT = SegmentFormat(
    name="chatml",
    roles=("system", "user", "assistant"),
    stops=(END,),
    segments=write,
    template=TEMPLATE,
)

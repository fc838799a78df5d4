"""GLM-4 chat: `[gMASK]<sop>`, then role tokens, each with its content on a new line.

The next role token ends an answer: `<|user|>`, or `<|observation|>` after a call. Learned: the
newline, the answer and the token after it; behind the last answer `<|user|>` is in the ids only.
Source: the published chat template, and the `finetune.py` of GLM-4.
"""

from danlu.tokenizer.chat.chat_format import ChatInput, Message
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, hidden

USER = "<|user|>"
TEMPLATE = (
    "{{- '[gMASK]<sop>' }}"
    "{%- for message in messages if message['content'] %}"
    "{{- '<|' ~ message['role'] ~ '|>\\n' ~ message['content'] }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation; messages without content are left out."""
    segments = [Segment("[gMASK]", control=True), Segment("<sop>", control=True)]
    answered = False
    for message in chat.messages:
        if message["content"]:
            segments += _message(message, after_answer=answered)
            answered = message["role"] == "assistant"
    if chat.add_generation_prompt:
        return [*segments, Segment("<|assistant|>", control=True)]
    return [*segments, hidden(USER, learn=True)] if answered else segments


def _message(message: Message, after_answer: bool) -> list[Segment]:
    role = message["role"]
    learn = role == "assistant"
    return [
        Segment(f"<|{role}|>", control=True, learn=after_answer),
        Segment("\n", learn=learn),
        Segment(message["content"], role, learn=learn),
    ]


FORMAT = SegmentFormat(
    name="glm4-chat",
    roles=("system", "user", "assistant", "observation"),
    stops=("<|endoftext|>", USER, "<|observation|>"),
    segments=write,
    template=TEMPLATE,
)

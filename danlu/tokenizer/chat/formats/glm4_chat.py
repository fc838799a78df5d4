"""GLM-4 chat: `[gMASK]<sop>`, then role tokens, each with its content on a new line.

The next role token ends an answer: `<|user|>`, or `<|observation|>` after a call. Learned: the
newline, the answer and the token after it; behind the last answer `<|user|>` is in the ids only.
Source: the published chat template, and the `finetune.py` of GLM-4.
"""

from danlu.tokenizer.chat.chat_format import NO_TURN, ChatInput, Message
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, hidden, turn_of

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
    previous: Message | None = None
    for message in chat.messages:
        if message["content"]:
            segments += _message(message, _ended(previous))
            previous = message
    if chat.add_generation_prompt:
        return [*segments, Segment("<|assistant|>", control=True)]
    ended = _ended(previous)
    return segments if ended is None else [*segments, hidden(USER, learn=True, turn=ended)]


def _ended(previous: Message | None) -> int | None:
    """Return the number of the answer that the next role token ends, None if it ends none."""
    answered = previous is not None and previous["role"] == "assistant"
    return turn_of(previous) if previous is not None and answered else None


def _message(message: Message, ended: int | None) -> list[Segment]:
    role, turn = message["role"], turn_of(message)
    learn = role == "assistant"
    ends = ended is not None
    return [
        Segment(f"<|{role}|>", control=True, learn=ends, turn=NO_TURN if ended is None else ended),
        Segment("\n", learn=learn, turn=turn if learn else NO_TURN),
        Segment(message["content"], role, learn=learn, turn=turn),
    ]


FORMAT = SegmentFormat(
    name="glm4-chat",
    roles=("system", "user", "assistant", "observation"),
    stops=("<|endoftext|>", USER, "<|observation|>"),
    segments=write,
    template=TEMPLATE,
)

"""Qwen-1's chat: ChatML that always has a system block; each content is encoded on its own.

Source: `make_context` in `qwen_generation_utils.py` of Qwen-7B-Chat, `chat_format` "chatml".
"""

from collections.abc import Sequence

from danlu.tokenizer.chat.chat_format import ChatInput, Message
from danlu.tokenizer.chat.formats.chatml import END, START, header, turn
from danlu.tokenizer.chat.messages import rounds_of, split_system, taking_turns
from danlu.tokenizer.chat.segments import Kept, Measure, Segment, SegmentFormat

SYSTEM = "You are a helpful assistant."
TEMPLATE = (
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}"
    "{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' ~ message['role'] ~ '\\n' ~ message['content'] ~ '<|im_end|>\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
)


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation."""
    system, turns = split_system(chat.messages)
    system = system or [{"role": "system", "content": SYSTEM}]
    segments = [part for message in [*system, *turns] for part in turn(message, alone=True)]
    return segments + (header("assistant") if chat.add_generation_prompt else [])


def newest_turns(messages: Sequence[Message], max_tokens: int, measure: Measure) -> Kept:
    """Keep turns, newest first, while they and the system text stay below `max_tokens`.

    The new question is not counted, so that the prompt can be longer than that.
    """
    system, turns = split_system(messages)
    *history, question = rounds_of(turns)
    kept: list[Message] = []
    for past in reversed(history):
        *counted, _ = write(ChatInput([*system, *past, *kept], add_generation_prompt=False))
        if measure(counted) >= max_tokens:  # the last newline belongs to the question
            break
        kept = [*past, *kept]
    return Kept([*system, *kept, *question])


FORMAT = SegmentFormat(
    name="qwen1-chat",
    roles=("system", "user", "assistant"),
    stops=(END, START),
    segments=write,
    template=TEMPLATE,
    problems=taking_turns,
    truncation=newest_turns,
)

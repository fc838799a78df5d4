"""Llama-2 chat: `[INST] question [/INST] answer `, each turn on its own between BOS and EOS.

Learned: the answer with the space in front of it, which the model writes, and EOS.
Source: `Llama.chat_completion` in `llama/generation.py` of facebookresearch/llama.
"""

from danlu.tokenizer.chat.chat_format import ChatInput, Message
from danlu.tokenizer.chat.messages import role_of, rounds_of, split_system, taking_turns
from danlu.tokenizer.chat.segments import Segment, SegmentFormat

BOS, EOS = "<s>", "</s>"
TAGS = ("[INST]", "[/INST]", "<<SYS>>", "<</SYS>>")
TEMPLATE = (
    "{%- set ns = namespace(head='') %}"
    "{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}"
    "{%- set ns.head = '<<SYS>>\\n' ~ message['content'] ~ '\\n<</SYS>>\\n\\n' %}"
    "{%- elif message['role'] == 'user' %}"
    "{{- bos_token ~ '[INST] ' ~ (ns.head ~ message['content']) | trim ~ ' [/INST]' }}"
    "{%- set ns.head = '' %}"
    "{%- else %}"
    "{{- ' ' ~ message['content'] | trim ~ ' ' ~ eos_token }}"
    "{%- endif %}"
    "{%- endfor %}"
)


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation."""
    system, turns = split_system(chat.messages)
    segments = []
    for messages in rounds_of(turns):
        segments += _round(messages, system)
        system = []
    return segments


def _round(messages: list[Message], system: list[Message]) -> list[Segment]:
    question, *answers = (message["content"] for message in messages)
    asked = question.rstrip() if system else question.strip()
    segments = [
        Segment(BOS, control=True),
        Segment("[INST] ", alone=True),
        *(part for message in system for part in _system(message["content"], bool(asked))),
        Segment(asked, "user"),
        Segment(" [/INST]"),
    ]
    for answer in answers:
        segments += [
            Segment(" ", learn=True),
            Segment(answer.strip(), "assistant", learn=True),
            Segment(" ", learn=True),
            Segment(EOS, control=True, learn=True),
        ]
    return segments


def _system(content: str, followed: bool) -> list[Segment]:
    """Return the system block; what follows it is stripped together with it."""
    closing = "\n<</SYS>>" + ("\n\n" if followed else "")
    return [Segment("<<SYS>>\n"), Segment(content, "system"), Segment(closing)]


def problems(chat: ChatInput) -> list[str]:
    """Return what is wrong; the family's own code refuses its tags inside a message, too."""
    tags = [
        f"messages[{index}]: the content holds {tag}, a tag of this format; take it out"
        for index, message in enumerate(chat.messages)
        for tag in TAGS
        if role_of(message) and tag in str(message.get("content"))
    ]
    return [*taking_turns(chat), *tags]


FORMAT = SegmentFormat(
    name="llama2-chat",
    roles=("system", "user", "assistant"),
    stops=(EOS,),
    segments=write,
    template=TEMPLATE,
    problems=problems,
)

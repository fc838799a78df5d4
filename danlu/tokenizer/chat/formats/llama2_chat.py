"""Llama-2 chat: `[INST] question [/INST] answer `, each turn on its own between BOS and EOS.

Learned: the answer with the space in front of it, which the model writes, and EOS.
Source: `Llama.chat_completion` in `llama/generation.py` of facebookresearch/llama.
"""

from danlu.tokenizer.chat.chat_format import ChatInput, Message
from danlu.tokenizer.chat.messages import role_of, rounds_of, split_system, taking_turns
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, turn_of

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
    question, *answers = messages
    content = question["content"]
    asked = content.rstrip() if system else content.strip()
    segments = [
        Segment(BOS, control=True),
        Segment("[INST] ", alone=True),
        *(part for message in system for part in _system(message, bool(asked))),
        Segment(asked, "user", turn=turn_of(question)),
        Segment(" [/INST]"),
    ]
    return segments + [part for answer in answers for part in _answer(answer)]


def _answer(message: Message) -> list[Segment]:
    turn = turn_of(message)
    return [
        Segment(" ", learn=True, turn=turn),
        Segment(message["content"].strip(), "assistant", learn=True, turn=turn),
        Segment(" ", learn=True, turn=turn),
        Segment(EOS, control=True, learn=True, turn=turn),
    ]


def _system(message: Message, followed: bool) -> list[Segment]:
    """Return the system block; what follows it is stripped together with it."""
    closing = "\n<</SYS>>" + ("\n\n" if followed else "")
    content = Segment(message["content"], "system", turn=turn_of(message))
    return [Segment("<<SYS>>\n"), content, Segment(closing)]


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

"""Chats whose turns are marked by two reserved ids, as in Baichuan 1 and 2.

The ids are: the system text, then for each message the reserved id of its role and the message
encoded on its own; the assistant's id asks for the answer. Learned: the answers, and the end of
the last one. The end of an earlier answer stands in no prompt, so none is put there; training
teaches it in place of the user's id that follows the answer.
Source: `build_chat_input` in `generation_utils.py` of Baichuan-13B-Chat and Baichuan2-13B-Chat;
labels as in `SupervisedDataset.preprocessing` of `fine-tune.py` of Baichuan2.
"""

from collections.abc import Sequence

from danlu.tokenizer.chat.chat_format import ChatInput, Message
from danlu.tokenizer.chat.messages import (
    alternating,
    begins_with_user,
    role_of,
    rounds_of,
    split_system,
)
from danlu.tokenizer.chat.segments import Kept, Measure, Segment, SegmentFormat, turn_of

END = "</s>"


def reserved_format(name: str, user: str, assistant: str) -> SegmentFormat:
    """Return the format whose turns begin with these two tokens."""
    marks = {"user": user, "assistant": assistant}

    def write(chat: ChatInput) -> list[Segment]:
        segments = _written(chat.messages, marks)
        answered = role_of(chat.messages[-1]) == "assistant"
        if chat.add_generation_prompt:  # an answer that was begun is continued
            return segments if answered else [*segments, Segment(assistant, control=True)]
        end = Segment(END, control=True, learn=True, turn=turn_of(chat.messages[-1]))
        return [*segments, end] if answered else segments

    def newest_rounds(messages: Sequence[Message], max_tokens: int, measure: Measure) -> Kept:
        """Keep rounds, newest first, while they and the system text fit; always the newest.

        Where that one alone is too long, the front of the ids (the system text first) is lost. The
        id that asks for the answer is not counted.
        """
        system, turns = split_system(messages)
        kept: list[Message] = []
        for past in reversed(rounds_of(turns)):
            if kept and measure(_written([*system, *past, *kept], marks)) > max_tokens:
                break
            kept = [*past, *kept]
        return Kept([*system, *kept], last_ids=max_tokens)

    return SegmentFormat(
        name=name,
        roles=("system", "user", "assistant"),
        stops=(END,),
        segments=write,
        template=_template(user, assistant),
        problems=_problems,
        truncation=newest_rounds,
    )


def _written(messages: Sequence[Message], marks: dict[str, str]) -> list[Segment]:
    before: Sequence[Message | None] = [None, *messages]
    return [
        part
        for previous, message in zip(before, messages, strict=False)
        for part in _turn(message, previous, marks)
    ]


def _turn(message: Message, previous: Message | None, marks: dict[str, str]) -> list[Segment]:
    role, turn = message["role"], turn_of(message)
    content = Segment(message["content"], role, learn=role == "assistant", alone=True, turn=turn)
    if role not in marks:
        return [content]
    if previous is None or previous["role"] != "assistant":
        return [Segment(marks[role], control=True), content]
    mark = Segment(marks[role], control=True, turn=turn_of(previous), label=END)
    return [mark, content]


def _problems(chat: ChatInput) -> list[str]:
    return [*alternating(chat), *begins_with_user(chat)]


def _template(user: str, assistant: str) -> str:
    return (
        "{%- for message in messages %}"
        f"{{%- if message['role'] == 'user' %}}{{{{- '{user}' }}}}"
        f"{{%- elif message['role'] == 'assistant' %}}{{{{- '{assistant}' }}}}{{%- endif %}}"
        "{{- message['content'] }}"
        "{%- if loop.last and message['role'] == 'assistant' and not add_generation_prompt %}"
        "{{- eos_token }}{%- endif %}"
        "{%- endfor %}"
        "{%- if add_generation_prompt and messages[-1]['role'] != 'assistant' %}"
        f"{{{{- '{assistant}' }}}}{{%- endif %}}"
    )

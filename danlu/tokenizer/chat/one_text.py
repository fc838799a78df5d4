"""Chats as one text with an opening sentence, role headers and separators, as Aquila has five.

The separators take turns by the position of a message, not by its role, and a prompt ends with a
space. The whole text is encoded at once, control tokens in it as such.

Learned: the answers and the separators after them. In training the last answer follows exactly
the prompt that asks for it; an earlier one stands as it does in later prompts, and the space of
its header counts as its first character, where the tokenizer puts it too.
Source: `conversation.py` and `covert_prompt_to_input_ids_with_history` in FlagAI's `aquila2`.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from danlu.tokenizer.chat.chat_format import NO_TURN, ChatInput, Message
from danlu.tokenizer.chat.messages import alternating, ends_with_user
from danlu.tokenizer.chat.segments import Kept, Measure, Segment, SegmentFormat, turn_of

SENTENCE = (
    "A chat between a curious human and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the human's questions."
)
START, MIDDLE, END = "<|startofpiece|>", "<|endofpiece|>", "</s>"


@dataclass(frozen=True)
class Style:
    """How a chat of one text looks.

    Attributes:
        opening: text in front of the first message.
        user: header of a question.
        assistant: header of an answer.
        asking: the header that asks for an answer.
        separators: what follows messages 0, 2, 4 ... and messages 1, 3, 5 ...
    """

    opening: str
    user: str
    assistant: str
    asking: str
    separators: tuple[str, str]


def one_text_format(
    name: str, style: Style, stops: tuple[str, ...], stop_texts: tuple[str, ...]
) -> SegmentFormat:
    """Return the format of this style; it has no place for a system message."""

    def write(chat: ChatInput) -> list[Segment]:
        segments = [Segment(style.opening)]
        last = len(chat.messages) - 1
        for index, message in enumerate(chat.messages):
            segments += _message(style, message, style.separators[index % 2], index == last)
        if chat.add_generation_prompt:
            segments += _pieces(style.asking)
        return _not_empty(segments)

    def newest_messages(messages: Sequence[Message], max_tokens: int, measure: Measure) -> Kept:
        """Keep messages, newest first and not by rounds, while the ids stay below `max_tokens`.

        What is left can begin with an answer; the separators then change places. Only the last
        message is sure to stay.
        """
        first = len(messages) - 1
        while first > 0 and measure(_backwards(style, messages[first - 1 :])) < max_tokens:
            first -= 1
        return Kept(list(messages[first:]))

    return SegmentFormat(
        name=name,
        roles=("user", "assistant"),
        stops=stops,
        segments=write,
        template=_template(style),
        problems=lambda chat: [*alternating(chat), *ends_with_user(chat)],
        stop_texts=stop_texts,
        truncation=newest_messages,
    )


def _message(style: Style, message: Message, separator: str, is_last: bool) -> list[Segment]:
    content, role, turn = message["content"], message["role"], turn_of(message)
    if role == "user":
        return [*_pieces(style.user), Segment(content, role, turn=turn), *_pieces(separator)]
    header = style.asking if is_last else style.assistant
    space = "" if is_last else " " * header.endswith(" ")
    return [
        *_pieces(header.removesuffix(space)),
        Segment(space, learn=True, turn=turn),
        Segment(content, role, learn=True, turn=turn),
        *_pieces(separator, learn=True, turn=turn),
    ]


def _pieces(text: str, learn: bool = False, turn: int = NO_TURN) -> list[Segment]:
    """Return what the format adds: a control token, or text, or one and then the other."""
    control = next((token for token in (START, MIDDLE, END) if text.startswith(token)), "")
    return [
        Segment(control, control=True, learn=learn, turn=turn),
        Segment(text.removeprefix(control), learn=learn, turn=turn),
    ]


def _backwards(style: Style, messages: Sequence[Message]) -> list[Segment]:
    """Return the messages newest first after the open header, as the family's code counts them."""
    segments = [Segment(style.opening), *_pieces(style.asking.removesuffix(" "))]
    for index, message in enumerate(reversed(messages), start=1):
        header = style.user if message["role"] == "user" else style.assistant
        segments += [*_pieces(header), Segment(message["content"], message["role"])]
        segments += _pieces(style.separators[index % 2])
    return _not_empty([*segments, Segment(" ")])


def _not_empty(segments: Sequence[Segment]) -> list[Segment]:
    return [segment for segment in segments if segment.text]


def _template(style: Style) -> str:
    quoted = {
        name: json.dumps(text)
        for name, text in {
            "opening": style.opening,
            "user": style.user,
            "assistant": style.assistant,
            "asking": style.asking,
            "even": style.separators[0],
            "odd": style.separators[1],
        }.items()
    }
    return (
        "{{{{- {opening} }}}}"
        "{{%- for message in messages %}}"
        "{{%- if message['role'] == 'user' %}}{{{{- {user} }}}}"
        "{{%- elif message['role'] != 'assistant' %}}"
        "{{{{- raise_exception('This format has only user and assistant messages.') }}}}"
        "{{%- elif loop.last %}}{{{{- {asking} }}}}"
        "{{%- else %}}{{{{- {assistant} }}}}{{%- endif %}}"
        "{{{{- message['content'] }}}}"
        "{{{{- {even} if loop.index0 is even else {odd} }}}}"
        "{{%- endfor %}}"
        "{{%- if add_generation_prompt %}}{{{{- {asking} }}}}{{%- endif %}}"
    ).format(**quoted)

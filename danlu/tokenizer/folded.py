"""Numbered rounds folded into one text, as ChatGLM-6B and ChatGLM2-6B write a conversation."""

from dataclasses import dataclass

from danlu.tokenizer.chat.chat_format import ChatInput, Message
from danlu.tokenizer.chat.messages import role_of
from danlu.tokenizer.chat.segments import Segment, turn_of

ONLY_LAST = "earlier rounds are folded into the prompt of the last one"


@dataclass(frozen=True)
class Rounds:
    """How rounds are written.

    Attributes:
        first: number of the first round.
        header: text in front of a question; `{}` is the number of the round.
        answer: text in front of an answer.
        end: text after an answer.
        bare: is a question without history written alone?
    """

    first: int
    header: str
    answer: str
    end: str
    bare: bool = False


def folded_rounds(chat: ChatInput, rounds: Rounds) -> tuple[list[Segment], Message | None]:
    """Return the prompt, and the last answer if the conversation ends with one."""
    messages = list(chat.messages)
    last = messages.pop() if role_of(messages[-1]) == "assistant" else None
    asks = chat.add_generation_prompt or last is not None
    if rounds.bare and len(messages) == 1:
        segments = [Segment(messages[0]["content"], "user", turn=turn_of(messages[0]))]
    else:
        segments = []
        for index, message in enumerate(messages):
            number = rounds.first + index // 2
            before = rounds.header.format(number) if index % 2 == 0 else rounds.answer
            after = rounds.end if index % 2 else ""
            content = Segment(message["content"], message["role"], turn=turn_of(message))
            segments += [Segment(before), content, Segment(after)]
        segments.append(Segment(rounds.answer if asks else ""))
    # What follows is encoded apart: the beginning marks the text as one of its own.
    return [Segment("", alone=True), *segments], last

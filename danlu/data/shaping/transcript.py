"""Conversations written as one text with speakers in it, as Anthropic's HH-RLHF has them.

Each turn begins on the second new line, with `Human: ` or `Assistant: `; a prompt ends with the
name of the assistant. Source: the data set of arXiv:2204.05862.
"""

import re

from danlu.data.examples import Message
from danlu.data.shaping.turns import answer, question

_TURN = re.compile(r"(?:\A|\n\n)(Human|Assistant):")


def transcript_of(text: str) -> list[Message]:
    """Return the turns of a transcript, an open last one left out; none if the text is no such."""
    begin, *turns = _TURN.split(text.lstrip("\n"))
    if begin or turns[:1] != ["Human"]:
        return []
    said = [part.strip() for part in turns[1::2]]
    messages = [
        question(part) if speaker == "Human" else answer(part)
        for speaker, part in zip(turns[::2], said, strict=True)
    ]
    return messages if said[-1] else messages[:-1]

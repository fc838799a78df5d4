"""Qwen-1's tools: the ReAct instructions and the tools stand in front of a question.

Tools are written into the only question, or into the last but one where there are more, as the
family does. A tool's answer (role "tool") goes on with the assistant's turn as `Observation: ...`,
and the model then goes on writing; so does a conversation that ends with the assistant's words.
Learned: what the assistant writes and the end of its turn, observations not.

Calls in `tool_calls` are written as Thought, Action and Action Input, and the answer after their
results as Final Answer, where it does not say so itself.
Source: `examples/react_demo.py` of QwenLM/Qwen; calls as in `parse_messages` of its
`openai_api.py`.
"""

from collections.abc import Mapping, Sequence

from danlu.tokenizer.chat.chat_format import ChatInput, Message
from danlu.tokenizer.chat.formats.chatml import END, START, end_of_turn, header, turn
from danlu.tokenizer.chat.formats.qwen1_chat import SYSTEM
from danlu.tokenizer.chat.messages import role_of, rounds_of, split_system
from danlu.tokenizer.chat.react import ACTION, ACTION_INPUT, OBSERVATION, question_with_tools
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, turn_of
from danlu.tokenizer.chat.tool_messages import calls_of


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation."""
    system, turns = split_system(chat.messages)
    segments = turn(system[0] if system else {"role": "system", "content": SYSTEM}, alone=True)
    rounds = rounds_of(turns)
    for index, messages in enumerate(rounds):
        shown = chat.tools if index == max(0, len(rounds) - 2) else None
        is_open = chat.add_generation_prompt and index == len(rounds) - 1
        segments += _round(messages, question_with_tools(shown or ()), is_open)
    return segments


def _round(messages: Sequence[Message], instructions: str, is_open: bool) -> list[Segment]:
    question, *answers = messages
    asked = (instructions + question["content"]).lstrip("\n").rstrip()
    shown = asked[len(instructions) :] if asked.startswith(instructions) else ""
    before = asked[: len(asked) - len(shown)]
    segments = [
        *header("user"),
        Segment(before, alone=True),
        Segment(shown, "user", turn=turn_of(question)),
    ]
    segments += end_of_turn(False)
    if is_open or answers:
        segments += [*header("assistant"), Segment("", alone=True), *_answer(answers)]
    if is_open or not answers:
        return segments
    return segments + end_of_turn(True, turn_of(answers[-1]))


def _answer(messages: Sequence[Message]) -> list[Segment]:
    """Return the assistant's turn without white space around it."""
    segments: list[Segment] = []
    called = False
    for index, message in enumerate(messages):
        text, number = _text(message, called).rstrip(), turn_of(message)
        called = called or bool(calls_of(message))
        if message["role"] == "tool":
            segments += [Segment(f"\n{OBSERVATION} "), Segment(text, "tool", turn=number)]
        else:
            space = Segment("\n" if index else "", learn=True, turn=number)
            written = Segment(text.lstrip("\n"), "assistant", learn=True, turn=number)
            segments += [space, written]
    return segments


def _text(message: Message, called: bool) -> str:
    """Return what stands for a message; `called`: were there `tool_calls` before it?"""
    content = message.get("content") or ""
    calls = calls_of(message)
    if calls:
        (call,) = calls
        thought = content if content.strip() else f"I can use {call.name}."
        thought = thought if thought.lstrip().startswith(THOUGHT) else f"{THOUGHT} {thought}"
        return f"{thought}{ACTION} {call.name}{ACTION_INPUT} {call.arguments}"
    if called and message["role"] == "assistant" and FINAL not in content:
        return f"{THOUGHT} I now know the final answer.\n{FINAL} {content}"
    return content


THOUGHT, FINAL = "Thought:", "Final Answer:"
FOLLOWS = {
    "system": ("start",),
    "user": ("start", "system", "assistant"),
    "assistant": ("user", "tool"),
    "tool": ("assistant",),
}


def problems(chat: ChatInput) -> list[str]:
    """Return what is wrong with the order of the roles."""
    found = []
    previous = "start"
    for index, message in enumerate(chat.messages):
        role = str(role_of(message))
        if isinstance(message, Mapping) and len(message.get("tool_calls") or ()) > 1:
            found.append(f"messages[{index}]: this format makes one call at a time")
        if role in FOLLOWS and previous not in FOLLOWS[role]:
            after = " or ".join(FOLLOWS[role])
            found.append(f"messages[{index}]: {role} after {previous}; expected it after {after}")
        previous = role
    if "user" not in map(role_of, chat.messages):
        found.append("there is no message of the user; expected at least one")
    return found


FORMAT = SegmentFormat(
    name="qwen1-react",
    roles=("system", "user", "assistant", "tool"),
    stops=(END, START),
    segments=write,
    template=None,  # JSON of tools with names for people has no equal in stock tools' schemas
    problems=problems,
    stop_texts=(OBSERVATION,),
    tool_role="tool",
)

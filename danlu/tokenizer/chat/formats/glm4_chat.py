"""GLM-4 chat: `[gMASK]<sop>`, then role tokens, each with its content on a new line.

The next role token ends an answer: `<|user|>`, or `<|observation|>` after a call. Learned: the
newline, the answer and the token after it; behind the last answer `<|user|>` is in the ids only.
Tools stand in a system turn of their own in front; a call is an assistant's turn whose role token
the name of the function follows.
Source: the published chat template, and the `finetune.py` of GLM-4; tools as its own
`tokenization_chatglm.py` lists them.
"""

import json
from collections.abc import Iterator, Sequence

from danlu.tokenizer.chat.chat_format import NO_TURN, ChatInput, Message, Tool
from danlu.tokenizer.chat.segments import Segment, SegmentFormat, hidden, turn_of
from danlu.tokenizer.chat.tool_messages import calls_of, tool_problems

USER, OBSERVATION = "<|user|>", "<|observation|>"
TEMPLATE = (
    "{{- '[gMASK]<sop>' }}"
    "{%- for message in messages if message['content'] %}"
    "{{- '<|' ~ message['role'] ~ '|>\\n' ~ message['content'] }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|assistant|>' }}{%- endif %}"
)
_BEFORE_TOOLS = (
    "你是一个名为 ChatGLM 的人工智能助手。你是基于智谱AI训练的语言模型 GLM-4 模型开发的，"
    "你的任务是针对用户的问题和要求提供适当的答复和支持。\n\n# 可用工具"
)
_AFTER_TOOL = "在调用上述函数时，请使用 Json 格式表示调用的参数。"


def write(chat: ChatInput) -> list[Segment]:
    """Return the segments of a conversation; messages without content or calls are left out."""
    segments = [Segment("[gMASK]", control=True), Segment("<sop>", control=True)]
    if chat.tools:
        segments += [Segment("<|system|>", control=True), Segment(_tools(chat.tools))]
    ended: int | None = None  # the answer that the next role token ends
    called = False
    for message in chat.messages:
        for part in _parts(message, ended):
            segments += part
            is_answer = message["role"] == "assistant"
            ended = turn_of(message) if is_answer else None
            called = is_answer and bool(calls_of(message))
    if chat.add_generation_prompt:
        return [*segments, Segment("<|assistant|>", control=True)]
    end = OBSERVATION if called else USER
    return segments if ended is None else [*segments, hidden(end, learn=True, turn=ended)]


def _parts(message: Message, ended: int | None) -> Iterator[list[Segment]]:
    """Yield what a message becomes: its content, then its calls, each behind a role token."""
    texts = [("", message.get("content") or ""), *calls_of(message)]
    for name, text in texts:
        if name or text:
            yield _part(message, name, text, ended)
            ended = turn_of(message)


def _part(message: Message, name: str, text: str, ended: int | None) -> list[Segment]:
    role, turn = message["role"], turn_of(message)
    learn = role == "assistant"
    ends, before = ended is not None, NO_TURN if ended is None else ended
    return [
        Segment(f"<|{role}|>", control=True, learn=ends, turn=before),
        Segment(f"{name}\n", learn=learn, turn=turn if learn else NO_TURN),
        Segment(text, role, learn=learn, turn=turn),
    ]


def _tools(tools: Sequence[Tool]) -> str:
    """Return the text of the system turn that lists the tools."""
    functions = [tool.get("function", tool) for tool in tools]
    listed = "".join(
        f"\n\n## {function.get('name')}\n\n"
        f"{json.dumps(function, ensure_ascii=False, indent=4)}\n{_AFTER_TOOL}"
        for function in functions
    )
    return f"\n{_BEFORE_TOOLS}{listed}"


FORMAT = SegmentFormat(
    name="glm4-chat",
    roles=("system", "user", "assistant", "observation"),
    stops=("<|endoftext|>", USER, "<|observation|>"),
    segments=write,
    template=TEMPLATE,  # without tools, as published for GLM-4-0414
    problems=lambda chat: tool_problems(chat.tools or ()),
    tool_role="observation",
)

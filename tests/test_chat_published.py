"""Our templates beside the published ones, on random conversations with tools and thoughts."""

import random
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from chat_cases import every_control_tokenizer
from tokenizer_cases import random_text

from danlu.tokenizer.chat.chat_format import ChatInput
from danlu.tokenizer.chat.formats import find_format
from danlu.tokenizer.chat.jinja_format import JinjaFormat

PUBLISHED = {
    "glm4-chat": "glm4",
    "llama3-chat": "llama3",
    "llama3.1-chat": "llama3_1",
    "qwen2.5-chat": "qwen2_5",
    "qwen3-chat": "qwen3",
}
TOOL = {"type": "function", "function": {"name": "clock", "parameters": {"zone": "时区 <&>"}}}
CALLS = [{"type": "function", "function": {"name": "clock", "arguments": {"zone": "\n中"}}}]


def random_chat(rng: random.Random, name: str) -> ChatInput:
    """Return a conversation of a kind that both templates know."""
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": text(rng)})
    knows_tools = name not in ("glm4-chat", "llama3-chat")
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": text(rng)})
        if knows_tools and rng.random() < 0.4:
            said = text(rng) if name != "llama3.1-chat" else ""
            messages.append({"role": "assistant", "content": said, "tool_calls": CALLS})
            messages += [{"role": "tool", "content": text(rng)}] * rng.randint(1, 2)
        thought = f"<think>\n{text(rng)}\n</think>\n\n" if rng.random() < 0.3 else ""
        messages.append({"role": "assistant", "content": thought + text(rng)})
    asks = rng.random() < 0.5
    tools = [TOOL] if knows_tools and rng.random() < 0.4 else None
    options: dict[str, Any] = {}
    if name == "qwen3-chat" and rng.random() < 0.5:
        options = {"enable_thinking": rng.random() < 0.5}
    if name == "llama3.1-chat":
        options = {"date_string": "1 May 2025", "tools_in_user_message": rng.random() < 0.5}
    return ChatInput(messages[:-1] if asks else messages, asks, tools, options)


def text(rng: random.Random) -> str:
    return rng.choice(["", "\n", "  "]) + "q" + random_text(rng, 12) + rng.choice(["", "\n\n", " "])


def text_of(format: JinjaFormat, chat: ChatInput) -> str:
    """Return what a template writes, without the loss mask that not every one has."""
    render = format._renderer(every_control_tokenizer(), chat, datetime(2025, 1, 1))
    return render(chat.messages, chat.add_generation_prompt)


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_ours_and_the_published_template_write_the_same(shared: Path, name: str) -> None:
    path = shared / f"data/chat/templates/{PUBLISHED[name]}.jinja"
    published = JinjaFormat({"default": path.read_text(encoding="utf-8")}, str(path))
    ours = find_format(name)
    template = JinjaFormat({"default": ours.template or ""}, name)
    rng = random.Random(3)
    for _ in range(60):
        chat = random_chat(rng, name)
        expected = text_of(published, chat)
        assert text_of(template, chat) == expected, chat
        assert ours.layout(every_control_tokenizer(), chat).text == expected, chat

"""The 17 published chat formats: prompts and ids of 181 conversations, exactly."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from chat_cases import every_control_tokenizer

from danlu.tokenizer import Rendered, Tokenizer, load_tokenizer
from danlu.tokenizer.chat.chat_format import ChatInput
from danlu.tokenizer.chat.formats import find_format, format_names
from danlu.tokenizer.chat.jinja_format import JinjaFormat
from danlu.tokenizer.chat.rendering import render_layout
from danlu.tokenizer.chat.truncation import fit_history

# Which tokenizer of ../shared/data/tokenizers belongs to a format, and the family it is opened as.
TOKENIZERS: dict[str, tuple[str, str] | None] = {
    "aquila": ("aquila", "aquila"),
    "aquila-chat": ("aquila", "aquila"),
    "aquila-legacy": ("aquila", "aquila"),
    "aquila-v1": ("aquila", "aquila"),
    "aquila-v2": ("aquila", "aquila"),
    "baichuan1-chat": ("baichuan1", "baichuan_13b"),
    "baichuan2-chat": ("baichuan2", "baichuan2"),
    "chatglm-6b": ("chatglm", "chatglm"),
    "chatglm2-6b": ("chatglm2", "chatglm2"),
    "glm4-chat": None,  # its own tokenizer is not at hand: text only, no ids published
    "llama2-chat": ("llama2", "llama2"),
    "llama3-chat": ("llama3", "llama3"),
    "llama3.1-chat": ("llama3", "llama3"),
    "qwen1-chat": ("qwen1", "qwen1"),
    "qwen1-react": ("qwen1", "qwen1"),
    "qwen2.5-chat": ("qwen2", "qwen3"),
    "qwen3-chat": ("qwen2", "qwen3"),
}
# Their own code lets control tokens that a message spells become control tokens.
READS_SPELLED = {name for name in TOKENIZERS if name.startswith(("aquila", "llama3", "qwen2.5"))}
READS_SPELLED |= {"qwen3-chat"}
LIMITS = ("max_window_size", "max_token", "model_max_length")


@dataclass(frozen=True)
class Case:
    """A conversation of a golden file and what it becomes."""

    format: str
    name: str
    messages: list[dict[str, Any]]
    prompt: str | None
    ids: list[int] | None
    tools: list[dict[str, Any]] | None
    add_generation_prompt: bool
    max_tokens: int | None
    options: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.format}: {self.name}"


def golden_cases(shared: Path, name: str) -> Iterator[Case]:
    document = json.loads((shared / f"data/chat/{name}.json").read_text(encoding="utf-8"))
    for case in document["cases"]:
        params = dict(case.get("params") or {})
        limit = next((params.pop(key) for key in LIMITS if key in params), None)
        room = params.pop("max_new_tokens", 0)
        yield Case(
            format=name,
            name=case["name"],
            messages=case.get("messages") or _messages_of(case["history"]),
            prompt=case.get("prompt"),
            ids=case.get("ids"),
            tools=params.pop("tools", None) or case.get("plugins"),
            add_generation_prompt=params.pop("add_generation_prompt", True),
            max_tokens=None if limit is None else limit - room,
            options=params,
        )


def _messages_of(history: list[tuple[str, str]]) -> list[dict[str, Any]]:
    pairs = [(("user", question), ("assistant", answer)) for question, answer in history]
    turns = [turn for pair in pairs for turn in pair]
    return [{"role": role, "content": content} for role, content in turns if content]


@cache
def family_tokenizer(folder: Path, family: str) -> Tokenizer:
    return load_tokenizer(folder, family=family)


def tokenizer_for(shared: Path, name: str) -> Tokenizer:
    found = TOKENIZERS[name]
    if found is None:
        return every_control_tokenizer()
    folder, family = found
    return family_tokenizer(shared / "data/tokenizers" / folder, family)


def render(tokenizer: Tokenizer, case: Case, **kwargs: Any) -> Rendered:
    if case.max_tokens is not None:
        fitted = fit_history(
            tokenizer, case.messages, case.max_tokens, format=case.format, rule="family"
        )
        return fitted.rendered
    return tokenizer.render_chat(
        case.messages,
        tools=case.tools,
        format=case.format,
        add_generation_prompt=case.add_generation_prompt,
        template_options=case.options,
        **kwargs,
    )


def spells_control(tokenizer: Tokenizer, case: Case) -> bool:
    return any(tokenizer.control_splitter.starts(message["content"]) for message in case.messages)


def test_every_published_format_is_built_in(shared: Path) -> None:
    files = sorted(path.stem for path in (shared / "data/chat").glob("*.json"))
    assert len(files) == 17
    assert files == sorted(TOKENIZERS)
    assert set(format_names()) == {*files, "chatml"}
    assert sum(len(list(golden_cases(shared, name))) for name in files) == 181


@pytest.mark.parametrize("name", sorted(TOKENIZERS))
def test_prompts_and_ids_are_the_published_ones(shared: Path, name: str) -> None:
    tokenizer = tokenizer_for(shared, name)
    compared = 0
    for case in golden_cases(shared, name):
        rendered = render(tokenizer, case)
        if case.prompt is not None:
            assert rendered.text == case.prompt, case
        if case.ids is not None and name in READS_SPELLED and spells_control(tokenizer, case):
            assert rendered.ids != case.ids, case  # by default text stays text
            assert rendered.text == render(tokenizer, case, allow_special=True).text
            rendered = render(tokenizer, case, allow_special=True)
        if case.ids is not None:
            assert rendered.ids == case.ids, case
        lists = (rendered.roles, rendered.loss_mask, rendered.spans)
        assert {len(entries) for entries in lists} == {len(rendered.ids)}
        compared += 1
    assert compared >= 3


@pytest.mark.parametrize("name", sorted(name for name in TOKENIZERS if find_format(name).template))
def test_the_jinja_templates_write_the_published_prompts(shared: Path, name: str) -> None:
    template = find_format(name).template
    assert template is not None
    tokenizer = tokenizer_for(shared, name)
    jinja = JinjaFormat({"default": template}, name)
    shown = "[gMASK]sop" if name == "chatglm2-6b" else ""  # in the ids only, by its own code
    compared = 0
    for case in golden_cases(shared, name):
        if case.max_tokens is not None or case.prompt is None:
            continue
        chat = ChatInput(case.messages, case.add_generation_prompt, case.tools, case.options)
        # Nothing learned: a prompt in one piece, as other tools encode it.
        layout = replace(jinja.layout(tokenizer, chat), learned=[])
        assert layout.text == shown + case.prompt, case
        if case.ids is not None and not spells_control(tokenizer, case):
            assert render_layout(tokenizer, layout).ids == case.ids, case
        compared += 1
    assert compared >= 6

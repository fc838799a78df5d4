"""Tools in conversations to learn from: the call is learned, the tool's answer is not."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_cases import every_control_tokenizer, role_text

from danlu.errors import TokenizerError
from danlu.tokenizer.chat.formats import format_names
from danlu.tokenizer.chat.tool_messages import TOOL_FORMATS
from danlu.tokenizer.chat.training import NOT_LEARNED, render_training

TOKENIZER = every_control_tokenizer()
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather.",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rom 罗马"}}}
TALK: list[dict[str, Any]] = [
    {"role": "user", "content": "Rome?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "name": "weather", "content": "sunny"},
    {"role": "assistant", "content": "It shines."},
]
ARGUMENTS = '{"city": "Rom 罗马"}'
LEARNED = {
    "glm4-chat": f"weather\n{ARGUMENTS}<|observation|>\nIt shines.<|user|>",
    "llama3.1-chat": f'{{"name": "weather", "parameters": {ARGUMENTS}}}<|eot_id|>'
    "It shines.<|eot_id|>",
    "qwen1-react": f"Thought: I can use weather.\nAction: weather\nAction Input: {ARGUMENTS}\n"
    "Thought: I now know the final answer.\nFinal Answer: It shines.<|im_end|>\n",
    "qwen2.5-chat": f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
    "<|im_end|>\nIt shines.<|im_end|>\n",
    "qwen3-chat": f'<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>'
    "<|im_end|>\n<think>\n\n</think>\n\nIt shines.<|im_end|>\n",
}


def learned(messages: list[dict[str, Any]], name: str) -> str:
    text = render_training(TOKENIZER, messages, tools=[WEATHER], format=name)
    assert not text.problem
    return TOKENIZER.decode([label for label in text.labels if label != NOT_LEARNED])


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_the_call_is_learned_and_the_result_is_not(name: str) -> None:
    assert learned(TALK, name) == LEARNED[name]
    text = render_training(TOKENIZER, TALK, tools=[WEATHER], format=name)
    result = [i for i, turn in enumerate(text.rendered.turns) if turn == 2]
    assert result
    assert {text.labels[place] for place in result} == {NOT_LEARNED}
    (role,) = {text.rendered.roles[place] for place in result}
    assert "sunny" in role_text(text.rendered, role)
    assert "Tells the weather." in text.rendered.text


@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_every_answer_follows_its_own_prompt(name: str) -> None:
    whole = TOKENIZER.render_chat(TALK, [WEATHER], name, add_generation_prompt=False)
    if name != "qwen3-chat":  # where a call without thoughts has an empty thought if it is last
        call = TOKENIZER.render_chat(TALK[:2], [WEATHER], name, add_generation_prompt=False)
        cut = len(call.ids) - 2 * (name == "qwen1-react")  # whose turn goes on behind the call
        assert whole.ids[:cut] == call.ids[:cut]
    for end in (1, 3):
        prompt = TOKENIZER.render_chat(TALK[:end], [WEATHER], name)
        assert whole.ids[: len(prompt.ids)] == prompt.ids


@pytest.mark.parametrize("role", ["tool", "function", "observation", "ipython"])
@pytest.mark.parametrize("name", TOOL_FORMATS)
def test_every_name_of_the_role_is_understood(name: str, role: str) -> None:
    messages = [*TALK[:2], {"role": role, "content": "sunny"}, TALK[3]]
    ours = TOKENIZER.render_chat(TALK, [WEATHER], name, add_generation_prompt=False)
    assert TOKENIZER.render_chat(messages, [WEATHER], name, add_generation_prompt=False) == ours


@pytest.mark.parametrize("name", sorted(set(format_names()) - set(TOOL_FORMATS)))
def test_formats_without_tools_name_those_that_have_them(name: str) -> None:
    hint = r"Tools can be shown by the formats glm4-chat, llama3\.1-chat, qwen1-react, qwen2\.5"
    for messages in (TALK, TALK[:2]):
        with pytest.raises(TokenizerError, match=hint):
            TOKENIZER.render_chat(messages, format=name, add_generation_prompt=False)
    with pytest.raises(TokenizerError, match=hint):
        TOKENIZER.render_chat(TALK[:1], tools=[WEATHER], format=name)


def test_templates_that_drop_calls_are_refused(tmp_path: Path) -> None:
    template = tmp_path / "plain.jinja"
    template.write_text(
        "{% for m in messages %}{% if m.role in ['user', 'assistant'] %}<|im_start|>{{ m.role }}\n"
        "{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
    )
    with pytest.raises(
        TokenizerError, match=r"does not show the calls .* in messages\[1\], mess.*2"
    ):
        TOKENIZER.render_chat(TALK, format=str(template), add_generation_prompt=False)


def test_wrong_calls_are_named_at_once() -> None:
    messages = [
        {**TALK[0], "tool_calls": [CALL]},
        {**TALK[1], "tool_calls": [{"function": "weather"}]},
        {**TALK[2], "role": "observatoin"},
        {**TALK[3], "tool_calls": "weather"},
    ]
    for name in ("glm4-chat", "qwen2.5-chat"):
        with pytest.raises(TokenizerError) as caught:
            TOKENIZER.render_chat(messages, format=name, add_generation_prompt=False)
        text = str(caught.value)
        assert "messages[0]: only the assistant makes calls" in text
        assert "messages[1]: tool_calls[0] is {'function': 'weather'}, expected a function" in text
        assert "Did you mean 'observation'?" in text
        assert "messages[3]: tool_calls is 'weather', expected a list" in text
    with pytest.raises(TokenizerError, match=r"tools\[0\] is 'weather', expected a function with"):
        TOKENIZER.render_chat(TALK[:1], tools=["weather"], format="glm4-chat")
    twice = [TALK[0], {**TALK[1], "tool_calls": [CALL, CALL]}]
    with pytest.raises(TokenizerError, match=r"messages\[1\]: this format makes one call at a"):
        TOKENIZER.render_chat(twice, format="qwen1-react", add_generation_prompt=False)
    assert learned(twice, "glm4-chat").count("weather\n") == 2


def test_glm4_lists_tools_as_published(shared: Path) -> None:
    """As the family's own code; blocks of the template, and its copy at hand, lose some of it."""
    template = str(shared / "data/chat/templates/glm4.jinja")
    system = {"role": "system", "content": "", "tools": [WEATHER]}
    calls = [{"role": "assistant", "metadata": "weather", "content": ARGUMENTS}]
    observed = {"role": "observation", "content": "sunny"}
    messages = [system, TALK[0], *calls, observed, TALK[3]]
    published = TOKENIZER.render_chat(
        messages, format=template, add_generation_prompt=False, learned_turns=()
    ).text
    ours = TOKENIZER.render_chat(TALK, [WEATHER], "glm4-chat", add_generation_prompt=False).text
    published = published.replace("......", "在调用上述函数时，请使用 Json 格式表示调用的参数。")
    assert ours == published.replace("可用工具\n##", "可用工具\n\n##")


def test_rows_of_a_data_set_with_tools(shared: Path) -> None:
    from danlu.data.conversations import read_conversations

    path = shared / "data/tooluse/glaive_toolcall_zh_demo.jsonl"
    rows = [row for row in read_conversations(path) if row.tools][:12]
    assert len(rows) == 12
    for name in TOOL_FORMATS:
        for row in rows:
            text = render_training(TOKENIZER, row.messages, tools=row.tools, format=name)
            assert not text.problem
            calls = sum(len(message.get("tool_calls") or ()) for message in row.messages)
            names = [json.dumps(t["function"]["name"]) for t in row.tools or ()]
            assert names
            assert not calls or text.num_learned > 10

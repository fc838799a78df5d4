"""ReAct: tools as text, calls read from answers, observations that are not learned."""

import json
from pathlib import Path
from typing import Any

import pytest
from chat_cases import every_control_tokenizer, learned_text, role_text

from danlu.errors import TokenizerError
from danlu.tokenizer.chat.react import ReactCall, parse_react

QUESTION = {"role": "user", "content": "time?"}
CLOCK = {
    "type": "function",
    "function": {
        "name": "clock",
        "description": "Tells the time.",
        "parameters": {"type": "object"},
    },
}


def test_published_calls_are_read(shared: Path) -> None:
    path = shared / "data/chat/qwen1-react.json"
    cases = json.loads(path.read_text(encoding="utf-8"))["parse_cases"]
    assert len(cases) == 3
    for case in cases:
        answer = parse_react(case["text"])
        call = answer.call or ReactCall("", "")
        assert [call.name, call.arguments, answer.text] == case["parsed"]


def test_the_last_call_counts() -> None:
    first = "Thought: a\nAction: one\nAction Input: 1\nObservation: x"
    second = f"{first}\nThought: b\nAction: two\nAction Input: {{}}\nObservation: y"
    assert parse_react(second).call == ReactCall("two", "{}")
    assert parse_react(f"{first}\nFinal Answer: x").call == ReactCall("one", "1")
    assert parse_react("\nAction Input: 1\nAction: wrong order").call is None
    assert parse_react("").call is None


def test_function_schemas_are_shown_as_tools() -> None:
    rendered = every_control_tokenizer().render_chat(
        [QUESTION], tools=[CLOCK], format="qwen1-react"
    )
    assert (
        "clock: Call this tool to interact with the clock API. What is the clock API useful for? "
        'Tells the time. Parameters: {"type": "object"} Format the arguments as a JSON object.\n'
    ) in rendered.text
    assert "should be one of [clock]\n" in rendered.text
    assert role_text(rendered, "user").strip() == "time?"


def test_a_result_goes_on_with_the_same_turn() -> None:
    tokenizer = every_control_tokenizer()
    call = "Thought: look\nAction: clock\nAction Input: {}"
    messages = [
        QUESTION,
        {"role": "assistant", "content": call},
        {"role": "tool", "content": "noon"},
    ]
    prompt = tokenizer.render_chat(messages, tools=[CLOCK], format="qwen1-react")
    assert prompt.text.endswith(f"<|im_start|>assistant\n{call}\nObservation: noon")
    done = [*messages, {"role": "assistant", "content": "Final Answer: noon"}]
    whole = tokenizer.render_chat(
        done, tools=[CLOCK], format="qwen1-react", add_generation_prompt=False
    )
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    assert learned_text(tokenizer, whole) == f"{call}\nFinal Answer: noon<|im_end|>\n"
    assert role_text(whole, "tool").strip() == "noon"


def test_everything_wrong_with_tools_is_named() -> None:
    tools: list[Any] = [
        {"name": "a", "description": "b"},
        {"name_for_model": 3, "parameters": []},
        {"name": "a", "description": "b", "parameters": [], "args_format": "jsn"},
        "clock",
    ]
    with pytest.raises(TokenizerError) as caught:
        every_control_tokenizer().render_chat([QUESTION], tools=tools, format="qwen1-react")
    text = str(caught.value)
    assert "tools[0]: has no parameters" in text
    assert "tools[1]: has no name_for_model (a text)" in text
    assert "tools[1]: has no description (a text)" in text
    assert "tools[2]: args_format 'jsn', expected json or code. Did you mean 'json'?" in text
    assert "tools[3]: is 'clock', expected an object" in text


def test_a_blank_question_leaves_the_instructions() -> None:
    blank = {"role": "user", "content": " \n"}
    rendered = every_control_tokenizer().render_chat([blank], tools=[CLOCK], format="qwen1-react")
    assert "Begin!\n\nQuestion:<|im_end|>" in rendered.text

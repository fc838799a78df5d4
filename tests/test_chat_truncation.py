"""Histories that are too long: whole rounds go, the system text and the question stay."""

import random
from typing import Any

import pytest
from chat_cases import conversation, every_control_tokenizer

from danlu.errors import RequestError, TokenizerError
from danlu.tokenizer.chat.formats import find_format, format_names
from danlu.tokenizer.chat.truncation import fit_history

SYSTEM = {"role": "system", "content": "Be brief."}


def talk(rounds: int) -> list[dict[str, str]]:
    messages = [SYSTEM]
    for number in range(rounds):
        messages.append({"role": "user", "content": f"The cat sat on mat {number}."})
        messages.append({"role": "assistant", "content": f"And dog {number}."})
    return [*messages, {"role": "user", "content": "cat?"}]


def size(messages: list[dict[str, str]], name: str = "chatml") -> int:
    return len(every_control_tokenizer().render_chat(messages, format=name).ids)


def test_what_fits_is_left_alone() -> None:
    messages = talk(3)
    fitted = fit_history(every_control_tokenizer(), messages, size(messages), format="chatml")
    assert (fitted.messages, fitted.dropped) == (messages, [])
    assert len(fitted.rendered.ids) == size(messages)


def test_the_oldest_rounds_go_first_and_as_few_as_possible() -> None:
    messages = talk(6)
    for kept in range(7):
        expected = [SYSTEM, *messages[1 + 2 * (6 - kept) :]]
        for spare in (0, 1):
            fitted = fit_history(
                every_control_tokenizer(), messages, size(expected) + spare, format="chatml"
            )
            assert fitted.messages == expected
            assert fitted.dropped == messages[1 : 1 + 2 * (6 - kept)]
            assert len(fitted.rendered.ids) == size(expected)


@pytest.mark.parametrize("name", format_names())
def test_every_format_fits_or_says_so(name: str) -> None:
    rng = random.Random(9)
    for _ in range(4):
        messages = conversation(rng, name, rounds=5)[:-1]
        messages = [{**m, "content": m["content"].replace("[", "(")} for m in messages]
        least = size([m for m in messages if m["role"] == "system"] + messages[-1:], name)
        for room in (least, least + 30, size(messages, name) - 1):
            fitted = fit_history(every_control_tokenizer(), messages, room, format=name)
            assert len(fitted.rendered.ids) <= room
            assert fitted.messages[-1] == messages[-1]
            assert len(fitted.messages) + len(fitted.dropped) == len(messages)
        with pytest.raises(RequestError, match=rf"is {least} tokens long .* at most {least - 1}\."):
            fit_history(every_control_tokenizer(), messages, least - 1, format=name)


def test_tools_and_results_stay_with_their_question() -> None:
    tools = [{"type": "function", "function": {"name": "clock"}}]
    call = {"type": "function", "function": {"name": "clock", "arguments": {}}}
    messages: list[Any] = [
        *talk(2)[:-1],
        {"role": "user", "content": "time?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon"},
    ]
    room = len(
        every_control_tokenizer()
        .render_chat([SYSTEM, *messages[-3:]], tools=tools, format="qwen2.5-chat")
        .ids
    )
    fitted = fit_history(
        every_control_tokenizer(), messages, room, format="qwen2.5-chat", tools=tools
    )
    assert fitted.messages == [SYSTEM, *messages[-3:]]


def test_a_rule_of_the_family_is_needed_to_ask_for_one() -> None:
    with_rule = {name for name in format_names() if find_format(name).truncation is not None}
    expected = {name for name in format_names() if name.startswith(("aquila", "baichuan"))}
    assert with_rule == {*expected, "qwen1-chat"}
    with pytest.raises(RequestError, match=r"'chatml' has no rule of its own"):
        fit_history(every_control_tokenizer(), talk(1), 99, format="chatml", rule="family")


def test_the_family_rule_may_cut_ids() -> None:
    """Baichuan's rule keeps the last ids where the newest round alone is too long."""
    messages = [SYSTEM, {"role": "user", "content": "The cat sat on the mat"}]
    whole = every_control_tokenizer().render_chat(messages, format="baichuan2-chat")
    cut = fit_history(
        every_control_tokenizer(), messages, 5, format="baichuan2-chat", rule="family"
    ).rendered
    assert cut.ids == whole.ids[-5:]
    assert whole.text.endswith(cut.text)
    assert [cut.text[a:b] for a, b in cut.spans] == [whole.text[a:b] for a, b in whole.spans[-5:]]
    none = fit_history(
        every_control_tokenizer(), messages, 0, format="baichuan2-chat", rule="family"
    )
    assert none.rendered.ids == []


@pytest.mark.parametrize("messages", [[], "hi", [{"role": "usr", "content": "hi"}]])
def test_what_is_no_conversation_is_refused(messages: Any) -> None:
    with pytest.raises(TokenizerError, match=r"[Cc]onversation"):
        fit_history(every_control_tokenizer(), messages, 9, format="chatml")
    with pytest.raises(RequestError, match=r"The last question is 0 tokens long"):
        fit_history(every_control_tokenizer(), [SYSTEM], 2, format="chatml")

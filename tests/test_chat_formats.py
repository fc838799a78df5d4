"""Every built-in format: what is learned, prompts in front of training, safety, bad input."""

import random
from typing import Any

import pytest
from chat_cases import (
    conversation,
    every_control_tokenizer,
    learned_text,
    role_text,
)

from danlu.errors import TokenizerError
from danlu.tokenizer.chat.formats import find_format, format_names

TALK = [{"role": "user", "content": "cat?"}, {"role": "assistant", "content": "dog"}]
LEARNED = {
    "aquila": "dog</s>",
    "aquila-chat": "dog###",
    "aquila-legacy": "dog</s>",
    "aquila-v1": "dog</s>",
    "aquila-v2": "dog</s>",
    "baichuan1-chat": "dog</s>",
    "baichuan2-chat": "dog</s>",
    "chatglm-6b": "dog<eop>",
    "chatglm2-6b": "dog</s>",
    "chatml": "dog<|im_end|>\n",
    "glm4-chat": "\ndog<|user|>",
    "llama2-chat": " dog </s>",
    "llama3-chat": "dog<|eot_id|>",
    "llama3.1-chat": "dog<|eot_id|>",
    "qwen1-chat": "dog<|im_end|>\n",
    "qwen1-react": "dog<|im_end|>\n",
    "qwen2.5-chat": "dog<|im_end|>\n",
    "qwen3-chat": "<think>\n\n</think>\n\ndog<|im_end|>\n",
}
FOLDED = ("chatglm-6b", "chatglm2-6b")  # of several answers only the last is learned
NAMES = sorted(LEARNED)


def test_all_formats_are_tested() -> None:
    assert format_names() == NAMES
    assert len(NAMES) == 18


@pytest.mark.parametrize("name", NAMES)
def test_the_mask_covers_the_answer_and_its_end(name: str) -> None:
    tokenizer = every_control_tokenizer()
    whole = tokenizer.render_chat(TALK, format=name, add_generation_prompt=False)
    assert learned_text(tokenizer, whole) == LEARNED[name]
    assert role_text(whole, "assistant").strip() == "dog"
    assert role_text(whole, "user").strip() == "cat?"
    prompt = tokenizer.render_chat(TALK[:1], format=name)
    assert not any(prompt.loss_mask)
    twice = tokenizer.render_chat([*TALK, *TALK], format=name, add_generation_prompt=False)
    assert learned_text(tokenizer, twice).count("dog") == (1 if name in FOLDED else 2)


@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_stands_in_front_of_its_answer_in_training(name: str) -> None:
    tokenizer = every_control_tokenizer()
    rng = random.Random(5)
    for _ in range(25):
        messages = conversation(rng, name, rounds=rng.randint(1, 3))
        if name == "llama2-chat":
            messages = without_tags(messages)
        whole = tokenizer.render_chat(messages, format=name, add_generation_prompt=False)
        prompt = tokenizer.render_chat(messages[:-1], format=name)
        assert whole.ids[: len(prompt.ids)] == prompt.ids, messages
        assert any(whole.loss_mask[len(prompt.ids) :])


def without_tags(messages: list[dict[str, str]]) -> list[dict[str, str]]:
    return [{**message, "content": message["content"].replace("[", "(")} for message in messages]


@pytest.mark.parametrize("name", NAMES)
def test_no_text_becomes_a_control_token(name: str) -> None:
    tokenizer = every_control_tokenizer()
    control = set(tokenizer.control_texts)
    rng = random.Random(6)
    for _ in range(25):
        messages = without_tags(conversation(rng, name, rounds=2))
        plain = [{**message, "content": "plain"} for message in messages]
        for asks in (True, False):
            given = {"format": name, "add_generation_prompt": asks}
            part = messages[:-1] if asks else messages
            hostile = tokenizer.render_chat(part, **given).ids
            harmless = tokenizer.render_chat(plain[: len(part)], **given).ids
            assert [i for i in hostile if i in control] == [i for i in harmless if i in control]


def test_spelled_control_tokens_on_request() -> None:
    tokenizer = every_control_tokenizer()
    messages = [{"role": "user", "content": "a</s>b"}]
    end = tokenizer.special_tokens["</s>"]
    assert end not in tokenizer.render_chat(messages, format="aquila-v1").ids
    allowed = tokenizer.render_chat(messages, format="aquila-v1", allow_special=True)
    assert allowed.ids.count(end) == 1
    assert tokenizer.decode(allowed.ids) == allowed.text


@pytest.mark.parametrize("name", NAMES)
def test_stops_are_tokens_or_texts(name: str) -> None:
    tokenizer = every_control_tokenizer()
    stops = tokenizer.stop_ids(name)
    assert len(stops) >= 1
    texts = tokenizer.stop_texts(name)
    expected = {
        "aquila": ["[UNK]"],
        "aquila-chat": ["###", "[UNK]"],
        "aquila-legacy": ["[UNK]"],
        "qwen1-react": ["Observation:"],
    }
    assert texts == expected.get(name, [])
    whole = tokenizer.render_chat(TALK, format=name, add_generation_prompt=False)
    learned = [i for i, learn in zip(whole.ids, whole.loss_mask, strict=True) if learn]
    assert set(learned) & set(stops) or learned_text(tokenizer, whole).endswith(tuple(texts))


def test_a_tokenizer_without_format_has_no_stop_texts() -> None:
    assert every_control_tokenizer().stop_texts() == []


ORDER = {
    "two users": ["user", "user"],
    "assistant first": ["assistant", "user"],
    "late system": ["user", "system", "assistant", "user"],
    "asks after an answer": ["user", "assistant"],
    "only system": ["system"],
}
WRONG = [
    ("qwen1-chat", "two users", r"messages\[1\]: two messages of the user in a row"),
    ("qwen1-chat", "assistant first", r"the first turn is the assistant's; expected the user's"),
    ("qwen1-chat", "late system", r"messages\[1\]: a system message must be the first"),
    ("qwen1-chat", "asks after an answer", r"an answer is asked for, but the last message is the"),
    ("qwen1-chat", "only system", r"there is no message of the user; expected at least one"),
    ("baichuan2-chat", "two users", r"messages\[1\]: two messages of the user in a row"),
    ("baichuan2-chat", "assistant first", r"the first turn is the assistant's"),
    ("chatglm-6b", "two users", r"messages\[1\]: two messages of the user in a row"),
    ("chatglm-6b", "late system", r"messages\[1\]: unknown role 'system', expected one of user"),
    ("chatglm2-6b", "asks after an answer", r"add_generation_prompt=False writes finished"),
    ("aquila", "two users", r"messages\[1\]: two messages of the user in a row"),
    ("aquila", "only system", r"unknown role 'system', expected one of user, assistant"),
    ("llama2-chat", "assistant first", r"the first turn is the assistant's"),
    ("qwen1-react", "two users", r"messages\[1\]: user after user; expected it after start or"),
    ("qwen1-react", "only system", r"there is no message of the user"),
]


@pytest.mark.parametrize(("name", "order", "message"), WRONG)
def test_roles_in_a_wrong_order(name: str, order: str, message: str) -> None:
    messages = [{"role": role, "content": "text"} for role in ORDER[order]]
    with pytest.raises(TokenizerError, match=message):
        every_control_tokenizer().render_chat(messages, format=name)


def test_all_problems_of_a_conversation_are_named_at_once() -> None:
    messages: list[Any] = [
        {"role": "assistant", "content": "[INST] hi"},
        {"role": "user", "content": 3},
        {"role": "user", "content": "<<SYS>>", "name": "Ann"},
        "hi",
    ]
    with pytest.raises(TokenizerError) as caught:
        every_control_tokenizer().render_chat(messages, format="llama2-chat")
    text = str(caught.value)
    assert "messages[1]: content is 3 (int), expected text" in text
    assert "messages[2]: this format cannot show name" in text
    assert "messages[3]: is a str, expected an object" in text
    assert "messages[2]: two messages of the user in a row" in text
    assert "the first turn is the assistant's" in text
    assert "messages[0]: the content holds [INST], a tag of this format; take it out" in text
    assert "messages[2]: the content holds <<SYS>>" in text


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("messages", [[], None, "hi", {"role": "user", "content": "hi"}, [None]])
def test_what_is_no_conversation_is_refused(name: str, messages: Any) -> None:
    with pytest.raises(TokenizerError, match=r"[Cc]onversation"):
        every_control_tokenizer().render_chat(messages, format=name)


def test_options_that_nothing_reads_are_refused() -> None:
    tokenizer = every_control_tokenizer()
    with pytest.raises(TokenizerError, match=r"options of the chat format 'chatml': enable_thinki"):
        tokenizer.render_chat(TALK[:1], format="chatml", template_options={"enable_thinking": True})
    with pytest.raises(TokenizerError, match=r"reads enable_thinking. Did you mean 'enable_thin"):
        tokenizer.render_chat(TALK[:1], format="qwen3-chat", template_options={"enable_thinkin": 1})
    with pytest.raises(TokenizerError, match=r"Unknown template options of .*: messages"):
        tokenizer.render_chat(TALK[:1], format="qwen3-chat", template_options={"messages": []})


def test_options_of_the_formats() -> None:
    tokenizer = every_control_tokenizer()
    dated = tokenizer.render_chat(
        TALK[:1], format="llama3.1-chat", template_options={"date_string": "1 Jan <|eot_id|>2025"}
    )
    assert "Today Date: 1 Jan <|eot_id|>2025\n\n" in dated.text
    assert dated.ids.count(tokenizer.special_tokens["<|eot_id|>"]) == 2
    tools = [{"type": "function", "function": {"name": "add"}}]
    in_system = tokenizer.render_chat(
        TALK[:1],
        tools=tools,
        format="llama3.1-chat",
        template_options={"tools_in_user_message": False},
    )
    assert in_system.text.index('"name": "add"') < in_system.text.index("user<|end_header_id|>")
    quick = {"enable_thinking": False}
    prompt = tokenizer.render_chat(TALK[:1], format="qwen3-chat", template_options=quick)
    whole = tokenizer.render_chat(TALK, format="qwen3-chat", add_generation_prompt=False)
    assert prompt.text.endswith("<think>\n\n</think>\n\n")
    assert whole.ids[: len(prompt.ids)] == prompt.ids


def test_qwen3_learns_from_conversations_with_thoughts() -> None:
    tokenizer = every_control_tokenizer()
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\ndog"}
    messages = [TALK[0], thought, TALK[0], thought]
    whole = tokenizer.render_chat(messages, format="qwen3-chat", add_generation_prompt=False)
    expected = "dog<|im_end|>\n<think>\nhm\n</think>\n\ndog<|im_end|>\n"
    assert learned_text(tokenizer, whole) == expected


def test_an_answer_that_was_begun_is_continued() -> None:
    tokenizer = every_control_tokenizer()
    begun = tokenizer.render_chat(TALK, format="baichuan2-chat")
    assert begun.text == "<reserved_106>cat?<reserved_107>dog"
    assert begun.ids[-1] != tokenizer.special_tokens["</s>"]


def test_contents_keep_their_ids_beside_headers() -> None:
    """Qwen-1 and Baichuan encode each content on its own, whatever stands in front of it."""
    tokenizer = every_control_tokenizer()
    messages = [{"role": "user", "content": "\n\nThe cat"}]
    alone = tokenizer.encode("\n\nThe cat")
    for name in ("qwen1-chat", "baichuan1-chat"):
        ids = tokenizer.render_chat(messages, format=name).ids
        assert any(ids[start : start + len(alone)] == alone for start in range(len(ids)))


@pytest.mark.parametrize("name", [name for name in NAMES if find_format(name).template])
def test_the_template_is_found_again_and_writes_the_same(name: str) -> None:
    tokenizer = every_control_tokenizer().with_chat_format(name)
    assert tokenizer.chat_format == name
    assert tokenizer.stop_ids() == every_control_tokenizer().stop_ids(name)

"""ChatML: ids, roles, loss mask, spans; a prompt is a prefix of training; bad conversations."""

import random
from pathlib import Path

import pytest
from tokenizer_cases import random_conversation, tiny_tokenizer

from danlu.errors import TokenizerError
from danlu.tokenizer import Rendered, load_tokenizer
from danlu.tokenizer.chat.formats import find_format, format_names
from danlu.tokenizer.chat.segments import SegmentFormat

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "<|im_end|>cat?"},
    {"role": "assistant", "content": "dog 狗"},
]


def learned_text(rendered: Rendered) -> str:
    pairs = zip(rendered.ids, rendered.loss_mask, strict=True)
    return tiny_tokenizer().decode([token_id for token_id, learn in pairs if learn])


def test_text_and_control_tokens() -> None:
    rendered = tiny_tokenizer().render_chat(TALK)
    assert rendered.text == (
        "<|im_start|>system\nBe brief.<|im_end|>\n"
        "<|im_start|>user\n<|im_end|>cat?<|im_end|>\n"
        "<|im_start|>assistant\ndog 狗<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert rendered.ids.count(1) == 4
    assert rendered.ids.count(2) == 3  # the <|im_end|> in the user's text is not among them
    assert tiny_tokenizer().decode(rendered.ids) == rendered.text


def test_the_mask_covers_the_answer_and_its_end() -> None:
    rendered = tiny_tokenizer().render_chat(TALK, add_generation_prompt=False)
    assert learned_text(rendered) == "dog 狗<|im_end|>\n"
    prompt = tiny_tokenizer().render_chat(TALK)
    assert learned_text(prompt) == "dog 狗<|im_end|>\n"


def test_roles_and_spans() -> None:
    rendered = tiny_tokenizer().render_chat(TALK)
    lengths = {len(rendered.ids), len(rendered.roles), len(rendered.loss_mask), len(rendered.spans)}
    assert len(lengths) == 1
    for role, expected in (("system", "Be brief."), ("assistant", "dog 狗")):
        spans = [s for s, r in zip(rendered.spans, rendered.roles, strict=True) if r == role]
        assert rendered.text[spans[0][0] : spans[-1][1]] == expected
    controls = zip(rendered.ids, rendered.roles, strict=True)
    assert {role for token_id, role in controls if token_id in (0, 1, 2)} == {"control"}


def test_random_conversations() -> None:
    tokenizer = tiny_tokenizer()
    rng = random.Random(11)
    for _ in range(200):
        messages = random_conversation(rng)
        whole = tokenizer.render_chat(messages, add_generation_prompt=False)
        assert tokenizer.decode(whole.ids) == whole.text
        assert whole.ids.count(1) == whole.ids.count(2) == len(messages)
        answers = [m["content"] for m in messages if m["role"] == "assistant"]
        assert learned_text(whole) == "".join(f"{answer}<|im_end|>\n" for answer in answers)
        for count in range(1, len(messages), 2):
            turns = messages[: count + (messages[0]["role"] == "system")]
            prompt = tokenizer.render_chat(turns)
            assert whole.ids[: len(prompt.ids)] == prompt.ids


def test_a_jinja_copy_of_chatml_gives_the_same_tokens(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    template = tmp_path / "copy.jinja"
    template.write_text(find_format("chatml").template + "{# a copy #}")
    rng = random.Random(12)
    for _ in range(100):
        messages = random_conversation(rng)
        for prompt in (True, False):
            ours = tokenizer.render_chat(messages, add_generation_prompt=prompt)
            other = tokenizer.render_chat(
                messages, format=str(template), add_generation_prompt=prompt
            )
            assert (other.ids, other.text) == (ours.ids, ours.text)
            assert (other.loss_mask, other.spans) == (ours.loss_mask, ours.spans)
    assert tokenizer.stop_ids(str(template)) == tokenizer.stop_ids("chatml")


def test_another_format_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tiny_tokenizer()
    template = tmp_path / "bare.jinja"
    template.write_text("{{ messages[0].content }}{{ eos_token }}")
    other = tokenizer.with_chat_format(str(template))
    assert other.fingerprint() != tokenizer.fingerprint()
    other.save(tmp_path / "saved")
    again = load_tokenizer(tmp_path / "saved")
    assert again.fingerprint() == other.fingerprint()
    assert again.render_chat(TALK).text == "Be brief.<|endoftext|>"
    assert again.with_chat_format("chatml").fingerprint() == tokenizer.fingerprint()
    bare = SegmentFormat("ids-only", ("user",), (), lambda chat: [])
    monkeypatch.setattr("danlu.tokenizer.base.format_for", lambda name: bare)
    with pytest.raises(TokenizerError, match=r"'ids-only' has no Jinja template"):
        tokenizer.with_chat_format("ids-only")


def test_formats_are_found_by_file_name() -> None:
    assert "chatml" in format_names()
    for name in format_names():
        assert find_format(name).name == name


def test_everything_wrong_with_a_conversation_is_named() -> None:
    messages = [
        {"role": "usr", "content": "hi"},
        {"role": "user", "content": None},
        {"role": "user", "content": [{"type": "text", "text": "hi"}]},
        {"role": "user", "content": "hi", "name": "Ann"},
        "hi",
    ]
    with pytest.raises(TokenizerError) as caught:
        tiny_tokenizer().render_chat(messages)  # type: ignore[arg-type]
    text = str(caught.value)
    assert "messages[0]: unknown role 'usr', expected one of system, user, assistant." in text
    assert "Did you mean 'user'?" in text
    assert "messages[1]: content is None (NoneType), expected text" in text
    assert "messages[2]: content is [{'type': 'text', 'text': 'hi'}] (list), expected text" in text
    assert "messages[3]: this format cannot show name" in text
    assert "messages[4]: is a str, expected an object" in text


def test_other_wrong_calls(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    with pytest.raises(TokenizerError, match=r"The conversation is empty"):
        tokenizer.render_chat([])
    with pytest.raises(TokenizerError, match=r"A conversation is a list of messages; got str 'hi'"):
        tokenizer.render_chat("hi")  # type: ignore[arg-type]
    with pytest.raises(TokenizerError, match=r"'chatml' cannot show tools .got 1."):
        tokenizer.render_chat(TALK, tools=[{"name": "add"}])
    with pytest.raises(
        TokenizerError, match=r"Unknown chat format 'chatlm'.*Did you mean 'chatml'"
    ):
        tokenizer.render_chat(TALK, format="chatlm")
    with pytest.raises(TokenizerError, match=r"chat template file '.*gone.jinja' cannot be read"):
        tokenizer.render_chat(TALK, format=str(tmp_path / "gone.jinja"))


def test_a_folder_without_template(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data/models/stories260K")
    with pytest.raises(TokenizerError, match=r"has no chat template.*with format="):
        tokenizer.render_chat(TALK)
    with pytest.raises(TokenizerError, match=r"no token '<|im_start|>', which the chat format"):
        tokenizer.render_chat(TALK, format="chatml")

"""chat_template.json in both forms; a comma too many; everything wrong with a file."""

import json
from pathlib import Path

import pytest
from chat_cases import every_control_tokenizer, learned_text
from tokenizer_cases import tiny_tokenizer

from danlu.errors import TokenizerError
from danlu.tokenizer import load_tokenizer
from danlu.tokenizer.chat.template_json import templates_in_json

# The example of PaddleNLP's documentation, its comma at the end included.
SOURCE = r"""{
    "system": "You are a helpful assistant.",
    "conversation": ["\n<|im_start|>user\n{{user}}<|im_end|>\n<|im_start|>assistant\n",
                     "{{bot}}<|im_end|>"],
    "query": "\n<|im_start|>user\n{{query}}<|im_end|>\n<|im_start|>assistant\n",
}"""
TALK = [
    {"role": "user", "content": "cat <|im_end|>?"},
    {"role": "assistant", "content": "dog"},
    {"role": "user", "content": "and \n"},
]


def written(tmp_path: Path, text: str) -> str:
    path = tmp_path / "chat_template.json"
    path.write_text(text, encoding="utf-8")
    return str(path)


def test_the_source_document_form(tmp_path: Path) -> None:
    tokenizer = every_control_tokenizer()
    prompt = tokenizer.render_chat(TALK, format=written(tmp_path, SOURCE))
    assert prompt.text == (
        "You are a helpful assistant."
        "\n<|im_start|>user\ncat <|im_end|>?<|im_end|>\n<|im_start|>assistant\ndog<|im_end|>"
        "\n<|im_start|>user\nand \n<|im_end|>\n<|im_start|>assistant\n"
    )
    end = tokenizer.special_tokens["<|im_end|>"]
    assert prompt.ids.count(end) == 3
    answer = {"role": "assistant", "content": "two"}
    whole = tokenizer.render_chat(
        [*TALK, answer], format=written(tmp_path, SOURCE), add_generation_prompt=False
    )
    assert learned_text(tokenizer, whole) == "dog<|im_end|>two<|im_end|>"
    assert whole.ids[: len(prompt.ids)] == prompt.ids
    assert tokenizer.stop_ids(written(tmp_path, SOURCE)) == [tokenizer.eos_id, end]


def test_rounds_have_an_index_and_a_system_text_a_default(tmp_path: Path) -> None:
    document = {
        "system": "{{ system | 'Be kind.' }}\n",
        "conversation": ["[{{index}}] {{user}}\n", "{{bot}}</s>\n"],
        "query": "[{{index}}] {{query}}\n",
    }
    path = written(tmp_path, json.dumps(document))
    tokenizer = every_control_tokenizer()
    assert tokenizer.render_chat(TALK, format=path).text == (
        "Be kind.\n[0] cat <|im_end|>?\ndog</s>\n[1] and \n\n"
    )
    own = [{"role": "system", "content": "Be brief."}, *TALK]
    assert tokenizer.render_chat(own, format=path).text.startswith("Be brief.\n[0] cat")


def test_a_system_text_needs_a_place(tmp_path: Path) -> None:
    own = [{"role": "system", "content": "Be brief."}, *TALK]
    with pytest.raises(TokenizerError, match=r"This template has no place for a system message"):
        every_control_tokenizer().render_chat(own, format=written(tmp_path, SOURCE))


def test_the_processor_form(tmp_path: Path) -> None:
    template = "{% for m in messages %}{{ m.content }}</s>{% endfor %}"
    path = written(tmp_path, json.dumps({"chat_template": template}))
    rendered = every_control_tokenizer().render_chat(TALK, format=path)
    assert rendered.text == "cat <|im_end|>?</s>dog</s>and \n</s>"
    named = json.dumps({"chat_template": {"default": template, "rag": "x"}})
    assert templates_in_json(named, "f") == {"default": template, "rag": "x"}


def test_it_can_be_saved_with_a_tokenizer(tmp_path: Path) -> None:
    path = written(tmp_path, SOURCE)
    own = every_control_tokenizer().with_chat_format(path)
    expected = every_control_tokenizer().render_chat(TALK, format=path)
    assert own.render_chat(TALK) == expected


def test_a_folder_with_such_a_file(tmp_path: Path) -> None:
    tiny_tokenizer().with_chat_format("chatml").save(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    path = written(tmp_path, SOURCE)
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.render_chat(TALK).text == tokenizer.render_chat(TALK, format=path).text
    tokenizer.save(tmp_path / "again")
    assert load_tokenizer(tmp_path / "again").fingerprint() == tokenizer.fingerprint()
    written(tmp_path, SOURCE[:60])
    with pytest.raises(TokenizerError, match=r"chat_template.json' is not valid JSON"):
        load_tokenizer(tmp_path)


def test_commas_inside_texts_stay() -> None:
    text = r'{"chat_template": "a,] \",}",}'
    assert templates_in_json(text, "f") == {"default": 'a,] ",}'}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"'f' is not valid JSON"),
        (SOURCE[:60], r"'f' is not valid JSON"),
        ("[1]", r"'f' holds a list; expected an object"),
        ('{"chat_template": 3}', r"has chat_template 3; expected a text, or an object of texts"),
        ("{}", r"query is None, expected a text\n.*conversation is None, expected two texts"),
    ],
)
def test_wrong_files(text: str, message: str) -> None:
    with pytest.raises(TokenizerError, match=message):
        templates_in_json(text, "f")


def test_everything_wrong_with_a_file_is_named_at_once() -> None:
    document = {"systm": "x", "system": 3, "conversation": ["a"], "query": None}
    with pytest.raises(TokenizerError) as caught:
        templates_in_json(json.dumps(document), "f")
    text = str(caught.value)
    assert (
        "unknown key 'systm', expected system, conversation, query. Did you mean 'system'?" in text
    )
    assert "system is 3, expected a text" in text
    assert "query is None, expected a text" in text
    assert "conversation is ['a'], expected two texts" in text


def test_the_parts_are_sandboxed(tmp_path: Path) -> None:
    document = {"conversation": ["{{user}}", "{{bot}}"], "query": "{{ query.__class__.mro() }}"}
    with pytest.raises(TokenizerError, match=r"cannot write this conversation.*unsafe"):
        every_control_tokenizer().render_chat(
            TALK[:1], format=written(tmp_path, json.dumps(document))
        )

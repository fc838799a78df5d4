"""Exported tokenizers in stock transformers: the same ids and the same chat text.

The tokenizers are the published ones beside the repository; without them the tests skip. The large
ones are `slow`.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from danlu.export.tokenizing import write_tokenizer
from danlu.tokenizer import load_tokenizer

transformers = pytest.importorskip("transformers")

# Tokenizer folder -> family, and the chat format of its chat models.
PUBLISHED = {
    "aquila": ("aquila", "aquila-v1"),
    "baichuan1": ("baichuan_7b", "baichuan1-chat"),
    "baichuan2": ("baichuan2_7b", "baichuan2-chat"),
    "chatglm2": ("chatglm2", "chatglm2-6b"),
    "gpt2": ("gpt2", None),
    "llama2": ("llama", "llama2-chat"),
    "llama3": ("llama3", "llama3-chat"),
    "opt": ("opt", None),
    "qwen1": ("qwen", "qwen1-chat"),
    "qwen2": ("qwen2", "qwen2.5-chat"),
}
ROUNDS = [
    {"role": "user", "content": "What is 2 + 2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "\u4f60\u597d, and 3 + 3?"},
]
SYSTEM = {"role": "system", "content": "Be brief."}
HIDDEN = {"chatglm2": "[gMASK]sop"}  # has no text in danlu; a template can only write it
WITHOUT_SYSTEM = ("aquila", "baichuan1", "chatglm2")  # formats with a fixed text in its place


LARGE = ("aquila", "baichuan2", "llama3", "qwen1", "qwen2")  # seconds to convert and open each


@pytest.fixture(
    scope="module",
    params=[pytest.param(n, marks=[pytest.mark.slow] * (n in LARGE)) for n in PUBLISHED],
)
def exported(
    request: pytest.FixtureRequest, shared: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, Any, Any, list[str]]:
    """Name, tokenizer, the same in stock transformers, and what the user is told."""
    family, chat_format = PUBLISHED[request.param]
    source = shared / "data" / "tokenizers" / request.param
    tokenizer = load_tokenizer(source, family, chat_format)
    folder, notes = tmp_path_factory.mktemp("exported"), list[str]()
    assert write_tokenizer(tokenizer, folder, family, notes).startswith("tokenizer.json")
    return request.param, tokenizer, transformers.AutoTokenizer.from_pretrained(folder), notes


def golden_cases(shared: Path, name: str) -> list[Mapping[str, Any]]:
    path = shared / "data" / "tokenizers" / name / "golden_encodings.json"
    cases: list[Mapping[str, Any]] = json.loads(path.read_text(encoding="utf-8"))["cases"]
    return cases


def test_the_same_ids(exported: tuple[str, Any, Any, list[str]], shared: Path) -> None:
    name, tokenizer, stock, notes = exported
    cases = golden_cases(shared, name)
    assert len(cases) >= 30
    for case in cases:
        ids = tokenizer.encode(case["text"], allow_special=True)  # as stock tokenizers always do
        assert stock.encode(case["text"], add_special_tokens=False) == ids
    assert notes == []


def test_the_same_chat(exported: tuple[str, Any, Any, list[str]]) -> None:
    name, tokenizer, stock, _ = exported
    if PUBLISHED[name][1] is None:
        assert stock.chat_template is None
        return
    for messages in (ROUNDS[:1], ROUNDS, *([] if name in WITHOUT_SYSTEM else [[SYSTEM, *ROUNDS]])):
        ours = tokenizer.render_chat(messages)
        text = stock.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert text.removeprefix(HIDDEN.get(name, "")) == ours.text
        ids = stock.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
        assert ids == ours.ids


def test_a_format_without_a_template_is_told(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "tokenizers" / "llama2"
    tokenizer = load_tokenizer(source, "llama", "chatglm-6b")
    notes: list[str] = []
    assert "no chat template" in write_tokenizer(tokenizer, tmp_path, "llama", notes)
    assert "'chatglm-6b' cannot be said as a template" in notes[0]


def test_a_tokenizer_that_has_no_json_keeps_its_files(shared: Path, tmp_path: Path) -> None:
    source = shared / "data" / "tokenizers" / "chatglm"
    tokenizer = load_tokenizer(source, "chatglm")
    notes: list[str] = []
    assert write_tokenizer(tokenizer, tmp_path, "chatglm", notes).startswith("ice_text.model")
    assert "in its own files" in notes[0]

"""Tokenizers as GGUF keys, beside vocabularies that llama.cpp published, and what is refused."""

import copy
from pathlib import Path
from typing import Any

import pytest
from gguf_fields import gguf_fields
from tokenizer_cases import tiny_tokenizer

from danlu.errors import ExportError
from danlu.export.gguf import byte_level
from danlu.export.gguf.byte_level import BLOOM, GPT2, LLAMA3, QWEN2, pre_tokenizer
from danlu.export.gguf.sentence_pieces import from_document, is_said_by
from danlu.export.gguf.vocabulary import TokenType, vocabulary
from danlu.tokenizer import Tokenizer, load_tokenizer

UNUSED, CONTROL, USER_DEFINED = TokenType.UNUSED, TokenType.CONTROL, TokenType.USER_DEFINED


def keys(tokenizer: Tokenizer, num_rows: int | None = None) -> dict[str, Any]:
    metadata = vocabulary(tokenizer, num_rows or tokenizer.vocab_size).metadata
    return {key.removeprefix("tokenizer.ggml."): value for key, value in metadata.items()}


@pytest.mark.parametrize(
    ("folder", "published", "family"),
    [("llama2", "llama-spm", "llama"), ("baichuan1", "baichuan", "baichuan_7b"), ("gpt2",) * 3],
)
def test_vocabularies_equal_those_that_llama_cpp_published(
    shared: Path, folder: str, published: str, family: str
) -> None:
    name = "gpt-2" if published == "gpt2" else published
    vectors = shared / "data" / "tokenizers" / "llamacpp_vectors"
    fields = gguf_fields(vectors / f"ggml-vocab-{name}.gguf")
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / folder, family)
    found = keys(tokenizer)
    for key in ("tokens", "scores", "merges", "model", "pre", "bos_token_id", "eos_token_id"):
        wanted = fields.get(f"tokenizer.ggml.{key}")
        if wanted is not None:
            ours = found[key]
            assert (list(ours) if isinstance(wanted, list) else ours) == wanted, key
    types = fields["tokenizer.ggml.token_type"]
    other = [i for i, kind in enumerate(found["token_type"]) if kind != types[i]]
    reserved = {i for text, i in tokenizer.special_tokens.items() if text.startswith("<reserved")}
    assert set(other) <= reserved  # control tokens of the chat format


def test_a_byte_level_vocabulary() -> None:
    tokenizer = tiny_tokenizer()
    found = keys(tokenizer, 400)
    assert (found["model"], found["pre"]) == ("gpt2", "qwen2")
    assert len(found["tokens"]) == len(found["token_type"]) == 400
    assert found["tokens"][:3] == ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert found["token_type"][:4] == [CONTROL, CONTROL, CONTROL, TokenType.NORMAL]
    assert found["tokens"][399] == "[PAD399]"
    assert found["token_type"][tokenizer.vocab_size :] == [UNUSED] * (400 - tokenizer.vocab_size)
    assert (found["eos_token_id"], found["eot_token_id"], found["padding_token_id"]) == (0, 2, 0)
    assert found["add_bos_token"] is False
    assert found["bos_token_id"] == 0  # there is none; llama.cpp would take token 11 for it
    assert len(found["merges"]) == tokenizer.vocab_size - 259
    assert "<|im_start|>" in found["tokenizer.chat_template"]


def test_a_sentencepiece_vocabulary(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data" / "models" / "stories260K")
    found = keys(tokenizer)
    assert (found["model"], found["pre"]) == ("llama", "default")
    assert found["token_type"][:5] == [TokenType.UNKNOWN, CONTROL, CONTROL, *[TokenType.BYTE] * 2]
    assert found["tokens"][3] == "<0x00>"
    assert found["add_bos_token"] is True
    assert found["add_space_prefix"] is True
    assert len(found["scores"]) == tokenizer.vocab_size
    assert found["scores"][259:262] == [0.0, -1.0, -2.0]


def test_pieces_that_are_found_as_a_whole_stay_so_where_no_space_is_added(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / "baichuan2", "baichuan2_7b")
    found = keys(tokenizer)
    assert found["add_space_prefix"] is False
    kinds = dict(zip(found["tokens"], found["token_type"], strict=True))
    assert kinds["<reserved_106>"] == USER_DEFINED
    assert kinds["="] == USER_DEFINED


def test_control_tokens_behind_the_pieces_are_merged_last(shared: Path) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / "chatglm2", "chatglm2")
    found = keys(tokenizer, 65024)
    sop = tokenizer.special_tokens["sop"]
    assert found["token_type"][sop] == CONTROL
    assert found["scores"][sop] < min(found["scores"][:64789])
    assert found["add_bos_token"] is False
    notes = vocabulary(tokenizer, 65024).notes
    assert any("wants [gMASK] sop there" in note for note in notes)
    assert any("finds sop, eop inside words" in note for note in notes)


def test_what_llama_cpp_does_not_normalise_is_said(shared: Path) -> None:
    baichuan = load_tokenizer(shared / "data" / "tokenizers" / "baichuan1", "baichuan_7b")
    (note,) = vocabulary(baichuan, 64000).notes
    assert "does not normalise text (nmt_nfkc)" in note
    document = split_by(QWEN2, vocab={"a": 0}, merges=[])
    assert byte_level.from_document(document, has_bos=False).notes == ()
    document["normalizer"] = {"type": "NFC"}
    (note,) = byte_level.from_document(document, has_bos=False).notes
    assert "does not normalise text (NFC)" in note


@pytest.mark.parametrize(
    ("folder", "family", "pre"),
    [
        pytest.param("qwen2", "qwen2", "qwen2", marks=pytest.mark.slow),
        ("aquila", "aquila", "gpt-2"),
        pytest.param("llama3", "llama", "llama-bpe", marks=pytest.mark.slow),
        pytest.param("qwen1", "qwen", "qwen2", marks=pytest.mark.slow),
    ],
)
def test_pre_tokenizers_of_real_vocabularies(
    shared: Path, folder: str, family: str, pre: str
) -> None:
    assert keys(load_tokenizer(shared / "data" / "tokenizers" / folder, family))["pre"] == pre


@pytest.mark.parametrize(
    ("folder", "family", "reason"),
    [
        ("chatglm", "chatglm", "not of the BPE kind"),
        ("glm-10b-chinese", "glm_10b", "no pieces for single bytes"),
    ],
)
def test_sentencepiece_models_that_llama_cpp_reads_otherwise_are_refused(
    shared: Path, folder: str, family: str, reason: str
) -> None:
    tokenizer = load_tokenizer(shared / "data" / "tokenizers" / folder, family)
    with pytest.raises(ExportError, match=f"{reason}.*--no-tokenizer"):
        vocabulary(tokenizer, tokenizer.vocab_size)


def split_by(pattern: str, **model: Any) -> dict[str, Any]:
    split = {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated"}
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False}
    steps = {"type": "Sequence", "pretokenizers": [split, level]}
    return {"model": {"type": "BPE", **model}, "pre_tokenizer": steps}


@pytest.mark.parametrize(
    ("pattern", "whole_words", "has_bos", "pre"),
    [
        (QWEN2, False, False, "qwen2"),
        (BLOOM, False, True, "bloom"),
        (GPT2, False, False, "gpt-2"),
        (LLAMA3, True, True, "llama-bpe"),
        (LLAMA3, True, False, "glm4"),
        (LLAMA3, False, True, "smaug-bpe"),
        (LLAMA3, False, False, "chatglm-bpe"),
    ],
)
def test_a_pre_tokenizer_is_known_by_its_pattern(
    pattern: str, whole_words: bool, has_bos: bool, pre: str
) -> None:
    document = split_by(pattern, ignore_merges=whole_words)
    assert pre_tokenizer(document, has_bos=has_bos) == pre


def test_a_plain_byte_level_step_is_gpt2() -> None:
    level = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
    document = {"model": {"type": "BPE"}, "pre_tokenizer": level}
    assert pre_tokenizer(document, has_bos=True) == "gpt-2"
    level["add_prefix_space"] = True
    with pytest.raises(ExportError, match="no pre-tokenizer that splits text by"):
        pre_tokenizer(document, has_bos=True)


def test_an_unknown_pattern_is_refused() -> None:
    with pytest.raises(ExportError, match=r"splits text by 'a\+'.*--no-tokenizer"):
        pre_tokenizer(split_by("a+"), has_bos=True)


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(ExportError, match=r"ids up to \d+, but the embedding has only 300 rows"):
        vocabulary(tiny_tokenizer(), 300)


SPACE = "\u2581"
CONVERTED: dict[str, Any] = {
    "normalizer": {"type": "Prepend", "prepend": SPACE},
    "pre_tokenizer": None,
    "model": {
        "type": "BPE",
        "byte_fallback": True,
        "unk_token": "<unk>",
        "vocab": {"<unk>": 0, "<0x0A>": 1, "ab": 2, "abc": 3, "a": 4, "b": 5, "c": 6, "bc": 7},
        "merges": ["a b", "b c", "ab c", "a bc"],
    },
}


def test_merges_of_a_converted_sentencepiece_model_become_scores() -> None:
    assert is_said_by(CONVERTED)
    words = from_document(CONVERTED)
    assert words.scores == (0.0, 0.0, -1.0, -3.0, 0.0, 0.0, 0.0, -2.0)
    assert words.types == {0: "UNKNOWN", 1: "BYTE"}
    assert words.space_prefix is True


@pytest.mark.parametrize("merges", [["a b", "b c", "ab c"], ["ab c", "a b", "b c", "a bc"]])
def test_merges_that_scores_cannot_say_are_refused(merges: list[str]) -> None:
    document = copy.deepcopy(CONVERTED)
    document["model"]["merges"] = merges
    with pytest.raises(ExportError, match="do not come from sentencepiece"):
        from_document(document)

"""Every published encoding we have: ids, text, the ids around a prompt; no difference allowed."""

import json
from pathlib import Path
from typing import Any

import pytest
from gguf_vocabulary import gguf_values
from tokenizer_cases import PUBLISHED, published

from danlu.tokenizer.piece_json import read_pieces

CASES = 32
VECTORS = {"qwen2": "qwen2", "gpt-2": "gpt2", "llama-bpe": "llama3", "llama-spm": "llama2"}


def golden(shared: Path, name: str) -> tuple[list[dict[str, Any]], bool]:
    """The cases of a tokenizer, and whether control tokens in their text were parsed."""
    data = json.loads((shared / "data/tokenizers" / name / "golden_encodings.json").read_text())
    told = str(data["meta"].get("special_tokens", ""))
    return data["cases"], "parsed" in told and "NOT parsed" not in told


def vectors(shared: Path, name: str) -> list[tuple[str, list[int]]]:
    folder = shared / "data/tokenizers/llamacpp_vectors"
    texts = (folder / f"ggml-vocab-{name}.gguf.inp").read_bytes().decode()
    ids = (folder / f"ggml-vocab-{name}.gguf.out").read_text().split("\n")
    cases = texts.split("\n__ggml_vocab_test__\n")
    return [(t, [int(i) for i in line.split()]) for t, line in zip(cases, ids, strict=True)]


def test_384_cases_of_12_tokenizers_and_188_vectors_are_compared(shared: Path) -> None:
    folders = {path.parent.name for path in shared.glob("data/tokenizers/*/golden_encodings.json")}
    assert folders == set(PUBLISHED)
    assert sum(len(golden(shared, name)[0]) for name in PUBLISHED) == CASES * len(PUBLISHED) == 384
    assert sum(len(vectors(shared, name)) for name in VECTORS) == 47 * len(VECTORS) == 188


@pytest.mark.parametrize("name", PUBLISHED)
def test_golden_ids_and_text(shared: Path, name: str) -> None:
    tokenizer = published(shared, name)
    cases, parsed = golden(shared, name)
    texts = [case["text"] for case in cases]
    assert [tokenizer.encode(text, allow_special=parsed) for text in texts] == [
        case["ids"] for case in cases
    ]
    assert [tokenizer.decode(case["ids"]) for case in cases] == [case["decoded"] for case in cases]
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.parametrize("name", PUBLISHED)
def test_spans_lie_in_the_text_and_the_ids_are_the_same(shared: Path, name: str) -> None:
    tokenizer = published(shared, name)
    for case in golden(shared, name)[0]:
        encoded = tokenizer.encode_spans(case["text"])
        if "<reserved_" not in case["text"]:  # messages never become Baichuan's reserved pieces
            assert encoded.ids == tokenizer.encode(case["text"])
        starts = [start for start, _ in encoded.spans]
        assert starts == sorted(starts)
        assert all(0 <= start <= end <= len(case["text"]) for start, end in encoded.spans)


@pytest.mark.parametrize("name", ["chatglm", "chatglm2"])
def test_ids_around_a_prompt(shared: Path, name: str) -> None:
    tokenizer = published(shared, name)
    cases = [case for case in golden(shared, name)[0] if "default_ids" in case]
    assert len(cases) == CASES
    for case in cases:
        assert tokenizer.encode_prompt(case["text"]) == case["default_ids"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_special_ids_of_the_meta(shared: Path, name: str) -> None:
    path = shared / "data/tokenizers" / name / "golden_encodings.json"
    ids = json.loads(path.read_text())["meta"].get("special_ids", {})
    tokenizer = published(shared, name)
    for text, token_id in ids.items():
        if isinstance(token_id, int):
            assert tokenizer.control_id(text) == token_id
            assert tokenizer.special_tokens[text] == token_id


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_llama_cpp(shared: Path, name: str) -> None:
    tokenizer = published(shared, VECTORS[name])
    cases = vectors(shared, name)
    assert [tokenizer.encode(text) for text, _ in cases] == [ids for _, ids in cases]


def test_baichuan_is_the_vocabulary_that_llama_cpp_has(shared: Path) -> None:
    theirs = gguf_values(shared / "data/tokenizers/llamacpp_vectors/ggml-vocab-baichuan.gguf")
    table = read_pieces(published(shared, "baichuan1").model.proto)
    assert len(table.texts) == 64000
    normal = [index for index, kind in enumerate(table.types) if kind == 1]
    for index in normal:
        assert theirs["tokenizer.ggml.tokens"][index] == table.texts[index]
        assert theirs["tokenizer.ggml.scores"][index] == table.scores[index]
    assert len(normal) == 63351

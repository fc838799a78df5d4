"""tiktoken where it is installed: the same ids, for every text; without it nothing changes."""

import json
import random
import unicodedata
from pathlib import Path

import pytest
from rank_folders import small_ranks, write_pairs, write_ranks
from tokenizer_cases import CORPUS, TRICKY, random_text

from danlu.tokenizer import Tokenizer, load_tokenizer, rank_engine

FAMILIES = ("gpt2", "qwen2", "llama3")


def small(folder: Path, family: str) -> Tokenizer:
    if family == "llama3":
        return load_tokenizer(write_ranks(folder, small_ranks()), family=family)
    write_pairs(folder)
    entry = {"content": "<think>", "special": False}
    size = len(json.loads((folder / "vocab.json").read_text()))
    config = {"added_tokens_decoder": {str(size): entry}, "eos_token": None, "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return load_tokenizer(folder, family=family)


def texts() -> list[str]:
    rng = random.Random(29)
    every = [chr(code) for code in range(0x20000) if unicodedata.category(chr(code)) != "Cs"]
    spread = ["".join(every[i : i + 400]) + " a1'S" for i in range(0, len(every), 400)]
    long = ["a" * 60_000, " " * 60_000 + "x", "\n \n" * 2000]
    tricky = [f"x{text}y <think> z" for text in TRICKY]
    return [*CORPUS, *spread, *long, *tricky, *(random_text(rng) for _ in range(300))]


@pytest.mark.parametrize("family", FAMILIES)
def test_the_ids_are_those_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    pytest.importorskip("tiktoken")
    slow, fast = small(tmp_path / "t", family), small(tmp_path / "t", family)
    expected = [slow.model.encode(text, prefix=True) for text in CORPUS]
    monkeypatch.setattr(rank_engine, "WORTH_CHARACTERS", 0)
    assert [fast.encode(text) for text in CORPUS] == expected
    assert fast.model._engine.get([]) is not None
    monkeypatch.setattr(rank_engine, "WORTH_CHARACTERS", 10**12)
    many = texts()
    expected = [slow.encode(text) for text in many]
    assert slow.model._engine.get([]) is None
    assert [fast.encode(text) for text in many] == expected
    assert fast.encode_batch(many) == expected


@pytest.mark.parametrize("family", FAMILIES)
def test_without_tiktoken_nothing_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str
) -> None:
    tokenizer = small(tmp_path / "t", family)
    expected = tokenizer.encode_batch(CORPUS)
    monkeypatch.setattr(rank_engine, "WORTH_CHARACTERS", 0)
    monkeypatch.setattr(rank_engine, "find_spec", lambda name: None)
    assert small(tmp_path / "t", family).encode_batch(CORPUS) == expected


def test_merges_that_no_ranks_say_are_left_to_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = write_pairs(tmp_path / "t")
    vocab = json.loads((folder / "vocab.json").read_text())
    for word in ("zq", "qx", "zqx"):
        vocab[word] = len(vocab)
    (folder / "vocab.json").write_text(json.dumps(vocab))
    merges = (folder / "merges.txt").read_text() + "z q\nq x\nz qx\n"  # never reached: zq is first
    (folder / "merges.txt").write_text(merges)
    monkeypatch.setattr(rank_engine, "WORTH_CHARACTERS", 0)
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode("zqx") == [vocab["zq"], vocab["x"]]
    assert tokenizer.model._engine.get([]) is None

"""Small folders of each kind of tokenizer file, for tests that break or change them."""

import base64
import json
from collections.abc import Sequence
from pathlib import Path

from tokenizer_cases import tiny_tokenizer

from danlu.tokenizer.pieces import byte_level_bytes


def small_ranks(size: int = 320) -> list[bytes]:
    """The 256 bytes and merged tokens of a real little vocabulary, in the order of merging."""
    document = tiny_tokenizer().model.tokenizer_json()
    assert document is not None
    vocab = document["model"]["vocab"]
    words = [byte_level_bytes(word) for word in sorted(vocab, key=vocab.__getitem__)]
    merged = [word for word in words if len(word) > 1 and not word.startswith(b"<|")]
    return [*(bytes([byte]) for byte in range(256)), *merged][:size]


def rank_lines(tokens: Sequence[bytes]) -> bytes:
    lines = [base64.b64encode(token) + b" %d" % rank for rank, token in enumerate(tokens)]
    return b"\n".join(lines) + b"\n"


def write_ranks(folder: Path, tokens: Sequence[bytes], first_control: int | None = None) -> Path:
    """A Llama 3 folder whose control tokens follow the ranks."""
    folder.mkdir(exist_ok=True)
    start = len(tokens) if first_control is None else first_control
    controls = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>"]
    added = {text: start + index for index, text in enumerate(controls)}
    (folder / "tokenizer.model").write_bytes(rank_lines(tokens))
    (folder / "added_tokens.json").write_text(json.dumps(added))
    return folder


def write_pairs(folder: Path, family: str = "gpt2") -> Path:
    """A folder of vocab.json and merges.txt."""
    folder.mkdir(exist_ok=True)
    document = tiny_tokenizer().model.tokenizer_json()
    assert document is not None
    merges = [" ".join(pair) for pair in document["model"]["merges"]]
    words = [word for word in document["model"]["vocab"] if not word.startswith("<|")]
    vocab = {word: index for index, word in enumerate([*words, "<|endoftext|>"])}
    (folder / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *merges, ""]), encoding="utf-8")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "GPT2Tokenizer"}))
    return folder

"""A small model with its tokenizer, and sentences to learn words from."""

import random
from pathlib import Path
from typing import Any

import torch
from checkpoints import spoil_config, spoil_weights, tiny_checkpoint
from safetensors.torch import load_file
from tokenizer_cases import CORPUS
from torch import Tensor

from danlu.commands.extend import NewTokens
from danlu.tokenizer import Tokenizer, train_bpe
from danlu.tokenizer.stamp import write_stamp

WORDS, CONTROL = ["丹炉", "zebra"], ["<|tool|>", "<|think|>"]
NEW = NewTokens(words=WORDS, control=CONTROL)
EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"


def small_tokenizer() -> Tokenizer:
    return train_bpe(CORPUS, 265)


def with_tokenizer(folder: Path, num_rows: int, **config: Any) -> Path:
    """A tiny llama with so many rows, and the small tokenizer beside it."""
    tiny_checkpoint(folder)
    spoil_config(folder, vocab_size=num_rows, **config)
    tensors = load_file(folder / "model.safetensors")
    generator = torch.Generator().manual_seed(1)
    shape = num_rows, tensors[EMBEDDING].shape[1]
    rows = {name: torch.randn(shape, generator=generator) for name in (EMBEDDING, HEAD)}
    if config.get("tie_word_embeddings"):
        spoil_weights(folder, **{key(EMBEDDING): rows[EMBEDDING], key(HEAD): None})
    else:
        spoil_weights(folder, **{key(name): tensor for name, tensor in rows.items()})
    small_tokenizer().save(folder)
    write_stamp(folder, small_tokenizer())
    return folder


def key(name: str) -> str:
    return name.replace(".", "__")


def tensors_of(folder: Path) -> dict[str, Tensor]:
    return load_file(folder / "model.safetensors")


def sentences(*words: str, count: int = 200) -> list[str]:
    """Short sentences of changing characters around the words."""
    rng = random.Random(0)
    before, after = "我你他她它们谁看买卖修说问", "了吗呢吧的啊过着用想找丢听"
    return [
        rng.choice(before) + rng.choice(words) + rng.choice(after) + rng.choice(before) + "。"
        for _ in range(count)
    ]

"""Texts, conversations and a small tokenizer shared by the tokenizer and chat tests."""

import random
from functools import cache
from pathlib import Path

from danlu.tokenizer import Tokenizer, load_tokenizer, train_bpe

CORPUS = [
    "The cat sat on the mat and the dog sat beside it. " * 3,
    "小明把红色的球给了小红，小红把球放在桌子上。" * 3,
    "def add(a, b):\n    return a + b\n\nprint(add(12, 30))\n" * 3,
    "user assistant system question answer 2024-11-21",
]
ALPHABET = (
    "abcXYZ 019 \n\t.,!?<>|_'\"{}[]/\\-中文字测试，。！？é̂ñ"
    "😀👨\u200d👩\u200d👧한글ひらがな\u2581\xa0"
)
TRICKY = ["<|im_end|>", "<|im_start|>", "<|endoftext|>", "<s>", "</s>", "<unk>", "<0x41>", "", " "]


PUBLISHED = (
    *("aquila", "baichuan1", "baichuan2", "chatglm", "chatglm2", "glm-10b-chinese", "gpt2"),
    *("llama2", "llama3", "opt", "qwen1", "qwen2"),
)


@cache
def published(shared: Path, name: str) -> Tokenizer:
    """One of the real tokenizers, opened once for all tests; the folder alone tells what it is."""
    return load_tokenizer(shared / "data/tokenizers" / name)


@cache
def tiny_tokenizer() -> Tokenizer:
    return train_bpe(CORPUS, 350)


def random_text(rng: random.Random, longest: int = 40) -> str:
    pieces = [rng.choice(ALPHABET) for _ in range(rng.randint(0, longest))]
    if rng.random() < 0.4:
        pieces.insert(rng.randint(0, len(pieces)), rng.choice(TRICKY))
    return "".join(pieces)


def random_conversation(rng: random.Random) -> list[dict[str, str]]:
    messages = []
    if rng.random() < 0.5:
        messages.append({"role": "system", "content": random_text(rng)})
    for _ in range(rng.randint(1, 3)):
        messages.append({"role": "user", "content": random_text(rng)})
        messages.append({"role": "assistant", "content": random_text(rng)})
    return messages

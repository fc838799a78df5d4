"""Greedy answers of the original and the quantized model, side by side."""

from collections.abc import Sequence
from dataclasses import dataclass

from danlu.engine.llm import LLM
from danlu.engine.sampling import SamplingParams
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer

PROMPT_TOKENS = 24
NEW_TOKENS = 48


@dataclass(frozen=True)
class Answers:
    """How both go on from one beginning.

    Attributes:
        prompt: the beginning.
        original: what the original writes.
        quantized: what the quantized model writes.
        same_tokens: tokens that both write before they part.
        tokens: that the original wrote.
    """

    prompt: str
    original: str
    quantized: str
    same_tokens: int
    tokens: int


def answers(
    original: Decoder,
    quantized: Decoder,
    tokenizer: Tokenizer,
    rows: Sequence[Sequence[int]],
    count: int,
) -> list[Answers]:
    """Return how both models go on, greedily, from the beginnings of pieces of some rows.

    Args:
        original: the reference.
        quantized: the other.
        tokenizer: of both.
        rows: of tokens, as compared.
        count: answers at most; fewer where the rows are short.
    """
    context = original.max_text_tokens
    prompts = beginnings(tokenizer, rows, min(PROMPT_TOKENS, max(1, context // 4)), count)
    if not prompts:
        return []
    params = SamplingParams(temperature=0.0, max_tokens=max(1, min(NEW_TOKENS, context // 2)))
    before = LLM.from_parts(original, tokenizer).generate(prompts, params)
    after = LLM.from_parts(quantized, tokenizer).generate(prompts, params)
    return [
        Answers(prompt, a.text, b.text, _shared(a.token_ids, b.token_ids), len(a.token_ids))
        for prompt, a, b in zip(prompts, before, after, strict=True)
    ]


def beginnings(
    tokenizer: Tokenizer, rows: Sequence[Sequence[int]], length: int, count: int
) -> list[str]:
    """Return different texts of `length` tokens, spread evenly over the rows."""
    step = length + NEW_TOKENS
    starts = [(row, at) for row in rows for at in range(0, max(1, len(row) - length), step)]
    texts = [
        tokenizer.decode(list(row[at : at + length]), skip_special=True).rstrip("\ufffd").strip()
        for row, at in starts
    ]
    different = list(dict.fromkeys(text for text in texts if text))
    if count >= len(different):
        return different
    return [different[number * len(different) // count] for number in range(count)]


def _shared(a: Sequence[int], b: Sequence[int]) -> int:
    """Return how many tokens are the same before the first that differs."""
    pairs = enumerate(zip(a, b, strict=False))
    return next((at for at, (x, y) in pairs if x != y), min(len(a), len(b)))

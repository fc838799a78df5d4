"""Tokens per second that a decoder reads (prefill) and writes (decode), one sequence at a time."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from danlu.engine.runner import StaticBatch
from danlu.engine.sampler import greedy
from danlu.models.decoder import Decoder


@dataclass(frozen=True)
class Speed:
    """Medians over repeats.

    Attributes:
        prefill_tokens_per_s: prompt tokens read.
        decode_tokens_per_s: tokens written after the prompt, greedily.
        prompt_tokens: length of the prompt.
        new_tokens: tokens written.
        repeats: runs after one that warms up.
    """

    prefill_tokens_per_s: float
    decode_tokens_per_s: float
    prompt_tokens: int
    new_tokens: int
    repeats: int


def measure_speed(
    decoder: Decoder, prompt_tokens: int = 128, new_tokens: int = 32, repeats: int = 3
) -> Speed:
    """Measure on a random prompt; lengths are cut to fit into the model's context."""
    context = decoder.max_text_tokens
    new_tokens = max(2, min(new_tokens, context // 2))
    prompt_tokens = max(1, min(prompt_tokens, context - new_tokens))
    generator = torch.Generator().manual_seed(0)
    prompt = torch.randint(decoder.config.vocab_size, (prompt_tokens,), generator=generator)
    runs = [_run(decoder, prompt.tolist(), new_tokens) for _ in range(repeats + 1)][1:]
    prefill_s, decode_s = (statistics.median(times) for times in zip(*runs, strict=True))
    return Speed(
        prompt_tokens / prefill_s, (new_tokens - 1) / decode_s, prompt_tokens, new_tokens, repeats
    )


def _run(decoder: Decoder, prompt: list[int], new_tokens: int) -> tuple[float, float]:
    """Seconds of prefill (with the first token), and of decoding the others."""
    batch = StaticBatch(decoder, [prompt], new_tokens)
    tokens_B = torch.zeros(1, dtype=torch.long)

    def prefill() -> None:
        nonlocal tokens_B
        tokens_B = greedy(batch.prefill()).tokens_B
        tokens_B.tolist()

    def decode() -> None:
        nonlocal tokens_B
        for _ in range(new_tokens - 1):
            tokens_B = greedy(batch.decode(tokens_B)).tokens_B
            tokens_B.tolist()

    return _seconds(prefill), _seconds(decode)


def _seconds(work: Callable[[], None]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start

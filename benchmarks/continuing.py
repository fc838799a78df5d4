"""Greedy continuations by Danlu without a cache, which other tools must give too."""

from collections.abc import Sequence

import torch

from danlu.models.decoder import Decoder


@torch.inference_mode()
def greedy(
    decoder: Decoder, prompts: Sequence[Sequence[int]], max_tokens: int
) -> tuple[list[list[int]], float]:
    """Return greedy continuations, and the smallest gap between the two likeliest logits."""
    gap, answers = float("inf"), []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(max_tokens):
            best = decoder(torch.tensor([ids]))[0, -1].topk(2)
            gap = min(gap, float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
        answers.append(ids[len(prompt) :])
    return answers, gap

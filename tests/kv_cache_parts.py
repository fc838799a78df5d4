"""Logits through a cache: prompts, then given or chosen tokens."""

import torch
from torch import Tensor

from danlu.engine.runner import StaticBatch
from danlu.models.decoder import Decoder


@torch.inference_mode()
def served(decoder: Decoder, prompts: list[list[int]], answers: list[list[int]]) -> Tensor:
    """Logits [B, 1 + T, V] after each prompt and each token of its answer."""
    batch = StaticBatch(decoder, prompts, len(answers[0]))
    return torch.cat((batch.prefill()[:, None], decoded(batch, answers)), dim=1)


@torch.inference_mode()
def decoded(batch: StaticBatch, answers: list[list[int]]) -> Tensor:
    """Logits [B, T, V] after each token of the answers."""
    return torch.stack([batch.decode(torch.tensor(t)) for t in zip(*answers, strict=True)], dim=1)


@torch.inference_mode()
def greedy(decoder: Decoder, prompt: list[int], count: int) -> list[int]:
    """The likeliest tokens after a prompt."""
    batch = StaticBatch(decoder, [prompt], count)
    tokens = [batch.prefill().argmax(-1)]
    while len(tokens) < count:
        tokens.append(batch.decode(tokens[-1]).argmax(-1))
    return torch.cat(tokens).tolist()

"""Logits over many tokens without holding them all: batches, hidden states, chunks."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from danlu.models.decoder import Decoder

# Tokens (rows x columns) in one forward pass, and numbers in one chunk of logits (float32: 32 MiB).
FORWARD_TOKENS = 4096
LOGIT_NUMBERS = 1 << 23


def by_length(lengths: Sequence[int], budget_tokens: int = FORWARD_TOKENS) -> list[list[int]]:
    """Return all indices in batches of similar length, each within the budget when padded."""
    batches: list[list[int]] = []
    longest = 0
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if not batches or (len(batches[-1]) + 1) * longest > budget_tokens:
            batches.append([])
            longest = lengths[index]
        batches[-1].append(index)
    return batches


def hidden_states(decoder: Decoder, rows: Sequence[Sequence[int]]) -> Tensor:
    """Return what enters the head for every token of all rows, row after row: [N, D].

    Rows may differ in length. They are padded on the right, where causal attention never looks, and
    the padding's states are dropped.
    """
    width = max(map(len, rows))
    padded = [[*row, *[0] * (width - len(row))] for row in rows]
    tokens_BT = torch.tensor(padded, dtype=torch.long, device=decoder.device)
    lengths_B1 = torch.tensor([[len(row)] for row in rows], device=decoder.device)
    real_BT = torch.arange(width, device=decoder.device) < lengths_B1
    numbering = decoder.sequence_rule().number(tokens_BT, real_BT)
    hidden_BTD = decoder.model(tokens_BT, numbering.positions_BT, numbering.context(None))
    return torch.cat([hidden_BTD[i, : len(row)] for i, row in enumerate(rows)])


def logit_chunks(vocab_size: int, num_tokens: int) -> Iterator[slice]:
    """Yield slices of the tokens whose logits fit into one chunk."""
    step = max(1, LOGIT_NUMBERS // vocab_size)
    for start in range(0, num_tokens, step):
        yield slice(start, start + step)


def float_logits(decoder: Decoder, hidden_ND: Tensor) -> Tensor:
    """Return the logits [N, V] in float32, as every measure uses them."""
    return decoder.logits(hidden_ND).float()

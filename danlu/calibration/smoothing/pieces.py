"""Channels of like range: k-means in one dimension."""

import torch
from torch import Tensor

ROUNDS = 100  # at most; ranges settle within a few


def pieces_of(range_I: Tensor, count: int) -> Tensor:
    """Return the piece of each channel: 0 for the smallest ranges, at most `count` - 1 (int64).

    Lloyd's algorithm from evenly spaced quantiles, so that the same ranges give the same pieces;
    fewer distinct ranges than `count` give fewer pieces.
    """
    quantiles = (torch.arange(count, device=range_I.device) + 0.5) / count
    places = (quantiles * len(range_I)).long().clamp(max=len(range_I) - 1)
    centers_P = range_I.float().sort().values[places].unique()
    pieces_I = _nearest(range_I, centers_P)
    for _ in range(ROUNDS):
        centers_P = torch.stack([range_I[pieces_I == p].mean() for p in pieces_I.unique()])
        before, pieces_I = pieces_I, _nearest(range_I, centers_P)
        if torch.equal(before, pieces_I):
            break
    return pieces_I


def _nearest(range_I: Tensor, centers_P: Tensor) -> Tensor:
    return (range_I[:, None] - centers_P).abs().argmin(-1)

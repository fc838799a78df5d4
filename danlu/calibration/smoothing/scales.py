"""Scales that give a part of the range of activations to the weights behind them, and their search.

Sources: SmoothQuant (arXiv:2211.10438, eq. 4). The piecewise search is that of PaddleSlim's
`PieceWiseSearch`: channels of like range are searched together, and may also get one number.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from danlu.calibration.smoothing.pieces import pieces_of
from danlu.calibration.smoothing.trial import Choice, Trial
from danlu.config.quantize.w8a8 import Range, SmoothConfig

ALPHA_STEP = 0.05
FACTOR_STEP = 0.5
SMALLEST_SCALE = 1e-5

Curve = Callable[[float], Tensor]  # alpha -> scale_I


def smoothing_scale(range_I: Tensor, weight_I: Tensor, alpha: float) -> Tensor:
    """Return range^alpha / weight^(1 - alpha) for each channel.

    Channels that were always zero keep their size; activations that only meet zero weights become
    as large as 1.

    Args:
        range_I: size of the activations.
        weight_I: size of the weights they meet.
        alpha: part of the range that is given away, from 0 to 1.
    """
    scale_I = range_I.pow(alpha) / weight_I.pow(1 - alpha)
    scale_I = torch.where(weight_I > 0, scale_I, range_I)
    return torch.where(range_I > 0, scale_I.clamp(min=SMALLEST_SCALE), torch.ones_like(scale_I))


def search(trial: Trial, range_I: Tensor, curve: Curve, config: SmoothConfig) -> Tensor:
    """Return the scale with the least error that the config lets be searched.

    No smoothing is always among what is tried.
    """
    if not config.piecewise_search:
        tried = [torch.ones_like(range_I), *_curves(curve, config)]
        return trial.best(tried).scale_I
    counts = range(1, config.k_piece + 1) if config.search_piece else [config.k_piece]
    found = [_search_pieces(trial, pieces_of(range_I, count), curve, config) for count in counts]
    return min(found, key=lambda choice: choice.error).scale_I


def _search_pieces(trial: Trial, pieces_I: Tensor, curve: Curve, config: SmoothConfig) -> Choice:
    """Search one piece after the other, the widest first: it decides what is left of the rest."""
    ones_I = torch.ones_like(curve(0.5))
    factors = [ones_I * factor for factor in _steps(config.search_scale, FACTOR_STEP)]
    choice = trial.of(ones_I)
    for piece in range(int(pieces_I.max()), -1, -1):
        tried = [
            torch.where(pieces_I == piece, scale_I, choice.scale_I)
            for scale_I in (*_curves(curve, config), *factors)
        ]
        choice = min((choice, trial.best(tried)), key=lambda choice: choice.error)
    return choice


def _curves(curve: Curve, config: SmoothConfig) -> list[Tensor]:
    return [curve(alpha) for alpha in _steps(config.search_alpha, ALPHA_STEP)]


def _steps(bounds: Range, step: float) -> list[float]:
    """Return numbers from one bound to the other, both included."""
    low, high = bounds
    count = round((high - low) / step) + 1
    return torch.linspace(low, high, max(count, 1), dtype=torch.float64).tolist()

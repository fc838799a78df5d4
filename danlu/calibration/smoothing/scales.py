"""Scales that give a part of the range of activations to the weights behind them, and their search.

Sources: SmoothQuant (arXiv:2211.10438, eq. 4). The piecewise search is that of PaddleSlim's
`PieceWiseSearch`: channels of like range are searched together, and may also get one number.
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from danlu.calibration.smoothing.pieces import pieces_of
from danlu.calibration.smoothing.trial import Choice, Recipe, Trial, best
from danlu.config.quantize.w8a8 import Range, SmoothConfig

ALPHA_STEP = 0.05
FACTOR_STEP = 0.5
SMALLEST_SCALE = 1e-5


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


def search(
    trials: Sequence[Trial], range_I: Tensor, weight_I: Tensor, config: SmoothConfig
) -> Tensor:
    """Return the scale, by all text, of the recipe with the least error in the trials.

    No smoothing is always among what is tried.

    Args:
        trials: judge recipes.
        range_I: size of the activations on all text.
        weight_I: size of the weights they meet.
        config: what is searched.
    """
    curves = [
        partial(smoothing_scale, weight_I=weight_I, alpha=alpha)
        for alpha in _steps(config.search_alpha, ALPHA_STEP)
    ]
    if not config.piecewise_search:
        return best(trials, [torch.ones_like, *curves]).recipe(range_I)
    factors = [
        partial(torch.full_like, fill_value=factor)
        for factor in _steps(config.search_scale, FACTOR_STEP)
    ]
    counts = range(1, config.k_piece + 1) if config.search_piece else [config.k_piece]
    found = [
        _search_pieces(trials, pieces_of(range_I, count), [*curves, *factors]) for count in counts
    ]
    return min(found, key=lambda choice: choice.error).recipe(range_I)


def _search_pieces(trials: Sequence[Trial], pieces_I: Tensor, recipes: Sequence[Recipe]) -> Choice:
    """Search one piece after the other, the widest first: it decides what is left of the rest."""
    choice = best(trials, [torch.ones_like])
    for piece in range(int(pieces_I.max()), -1, -1):
        tried = [
            partial(_with_piece, pieces_I == piece, recipe, choice.recipe) for recipe in recipes
        ]
        choice = min((choice, best(trials, tried)), key=lambda choice: choice.error)
    return choice


def _with_piece(chosen_I: Tensor, recipe: Recipe, others: Recipe, range_I: Tensor) -> Tensor:
    return torch.where(chosen_I, recipe(range_I), others(range_I))


def _steps(bounds: Range, step: float) -> list[float]:
    """Return numbers from one bound to the other, both included."""
    low, high = bounds
    count = round((high - low) / step) + 1
    return torch.linspace(low, high, max(count, 1), dtype=torch.float64).tolist()

"""How long-context variants bend the frequencies of rotary embeddings.

Sources: linear: arXiv:2306.15595; llama3: the Llama 3.1 release; YaRN: arXiv:2309.00071.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor


def plain_frequencies(rotary_dim: int, theta: float, device: torch.device) -> Tensor:
    """Return theta ** (-2i / rotary_dim) for each pair i, in float32."""
    return theta ** (-torch.arange(0, rotary_dim, 2, device=device).float() / rotary_dim)


@dataclass(frozen=True)
class RopeScaling:
    """No scaling, and the base of all others."""

    @property
    def magnitude(self) -> float:
        """Factor on cosines and sines."""
        return 1.0

    def frequencies(self, rotary_dim: int, theta: float, device: torch.device) -> Tensor:
        """Return the angle per position of each pair [rotary_dim / 2], float32."""
        return plain_frequencies(rotary_dim, theta, device)


@dataclass(frozen=True)
class LinearScaling(RopeScaling):
    """Positions divided by `factor`."""

    factor: float

    def frequencies(self, rotary_dim: int, theta: float, device: torch.device) -> Tensor:
        """Return the plain frequencies divided by the factor."""
        return plain_frequencies(rotary_dim, theta, device) / self.factor


@dataclass(frozen=True)
class Llama3Scaling(RopeScaling):
    """Long wavelengths divided by `factor`, short ones kept, blended between.

    Attributes:
        factor: how much longer the context becomes.
        low_freq_factor: wavelengths above original / this are divided in full.
        high_freq_factor: wavelengths below original / this are kept.
        original_max_seq_len: context the model was first trained on.
    """

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_seq_len: int

    def frequencies(self, rotary_dim: int, theta: float, device: torch.device) -> Tensor:
        """Return the blended frequencies."""
        plain = plain_frequencies(rotary_dim, theta, device)
        turns = self.original_max_seq_len * plain / (2 * math.pi)
        span = self.high_freq_factor - self.low_freq_factor
        kept = ((turns - self.low_freq_factor) / span).clamp(0.0, 1.0)
        return (1 - kept) * plain / self.factor + kept * plain


@dataclass(frozen=True)
class YarnScaling(RopeScaling):
    """YaRN: pairs that turn seldom are interpolated, those that turn often are kept.

    Attributes:
        factor: how much longer the context becomes.
        original_max_seq_len: context the model was first trained on.
        beta_fast: pairs that turn more often than this in the original context are kept.
        beta_slow: pairs that turn less often are interpolated in full.
        attention_factor: magnitude of cosines and sines; None: the paper's 0.1 ln(factor) + 1.
    """

    factor: float
    original_max_seq_len: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    attention_factor: float | None = None

    @property
    def magnitude(self) -> float:
        """The attention temperature of the paper (its eq. 22), put on cosines and sines."""
        if self.attention_factor is not None:
            return self.attention_factor
        return yarn_magnitude(self.factor)

    def frequencies(self, rotary_dim: int, theta: float, device: torch.device) -> Tensor:
        """Return the blended frequencies."""
        plain = plain_frequencies(rotary_dim, theta, device)
        low = max(math.floor(self._pair_that_turns(self.beta_fast, rotary_dim, theta)), 0)
        high = min(
            math.ceil(self._pair_that_turns(self.beta_slow, rotary_dim, theta)), rotary_dim - 1
        )
        pairs = torch.arange(len(plain), device=device).float()
        interpolated = ((pairs - low) / max(high - low, 0.001)).clamp(0.0, 1.0)
        return plain / self.factor * interpolated + plain * (1 - interpolated)

    def _pair_that_turns(self, times: float, rotary_dim: int, theta: float) -> float:
        """Return the (fractional) pair that turns this often in the original context."""
        wavelength = self.original_max_seq_len / (times * 2 * math.pi)
        return rotary_dim * math.log(wavelength) / (2 * math.log(theta))


def yarn_magnitude(factor: float, weight: float = 1.0) -> float:
    """Return 0.1 * weight * ln(factor) + 1, or 1 where nothing is stretched."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0

"""Paired measurements: every round measures all sides, one after the other, in the same minutes."""

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """What the rounds of one side gave."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    def text(self, form: str = ",.1f") -> str:
        """Return the median with the smallest and largest value."""
        low, high = min(self.values), max(self.values)
        return f"{self.median:{form}} ({low:{form}} to {high:{form}})"


Samples = dict[str, Spread]


def paired_rounds(
    sides: Mapping[str, Callable[[], float]], rounds: int, warm_ups: int = 1
) -> Samples:
    """Measure every side in every round, in an order that turns around; return the spreads.

    Args:
        sides: name -> one measurement.
        rounds: that count.
        warm_ups: rounds before them, which do not.
    """
    names = list(sides)
    values: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-warm_ups, rounds):
        for name in names if number % 2 == 0 else reversed(names):
            value = sides[name]()
            if number >= 0:
                values[name].append(value)
    return {name: Spread(tuple(found)) for name, found in values.items()}


def best_of(samples: Samples, names: Sequence[str], *, highest: bool = True) -> str:
    """Return which of `names` has the best median."""
    pick = max if highest else min
    return pick(names, key=lambda name: samples[name].median)


def ratio_text(ours: Spread, theirs: Spread) -> str:
    """Return the ratio of the medians, and the smallest and largest ratio within a round."""
    each = [a / b for a, b in zip(ours.values, theirs.values, strict=True)]
    return f"{ours.median / theirs.median:.2f}x ({min(each):.2f} to {max(each):.2f})"


def verdict(value: float, aim: float, *, at_least: bool = True) -> str:
    """Return an aim and whether `value` reaches it."""
    reached = value >= aim if at_least else value <= aim
    sign = ">=" if at_least else "<="
    return f"{sign} {aim:g}: {'reached' if reached else 'NOT reached'}"

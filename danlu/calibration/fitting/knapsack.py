"""One option for each item, so that costs stay within a budget and harms add up to the least.

The multiple-choice knapsack problem, solved by dominance: of all choices for the first items only
those stay for which no other is as cheap and as harmless (Nemhauser and Ullmann 1969; Kellerer,
Pferschy and Pisinger, Knapsack Problems, 2004, sec. 11.5).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

MAX_STATES = 2**15


class Option(NamedTuple):
    """What an item may be: what that costs, and what harm it does."""

    cost: int
    harm: float


@dataclass(frozen=True)
class _Frontier:
    """The choices for the first items that no other dominates, by rising cost and falling harm.

    Attributes:
        costs: int64 [n].
        harms: float64 [n].
        options: of the last item, in each choice [n].
        earlier: the choice for the items before it, by its place in their frontier [n].
    """

    costs: Tensor
    harms: Tensor
    options: Tensor
    earlier: Tensor

    def at(self, places: Tensor) -> "_Frontier":
        """Return some of the choices."""
        parts = (self.costs, self.harms, self.options, self.earlier)
        return _Frontier(*(part[places] for part in parts))


def least_cost(items: Sequence[Sequence[Option]]) -> int:
    """Return the cost of the cheapest option of every item."""
    return sum(min(option.cost for option in options) for options in items)


def least_harm(
    items: Sequence[Sequence[Option]], budget: int, max_states: int = MAX_STATES
) -> list[int] | None:
    """Return the option of each item with the least harm in sum that the budget allows.

    Exact as long as no more than `max_states` choices are kept at a time. Beyond that, choices of
    nearly equal cost are taken for equal: the harm is at most the least one of a budget smaller by
    `budget * len(items) / max_states`.

    Args:
        items: the options of each, one at least.
        budget: that costs may add up to.
        max_states: choices kept at a time.

    Returns:
        The places of the options; None if even the cheapest ones cost more than the budget.
    """
    room = budget - least_cost(items)
    if room < 0:
        return None
    frontiers: list[_Frontier] = []
    costs, harms = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.float64)
    for options in items:
        grown = _grown(costs, harms, options, room)
        frontiers.append(_thinned(_undominated(grown), room, max_states))
        costs, harms = frontiers[-1].costs, frontiers[-1].harms
    chosen, place = [], len(costs) - 1
    for frontier in reversed(frontiers):
        chosen.append(int(frontier.options[place]))
        place = int(frontier.earlier[place])
    return chosen[::-1]


def _grown(costs: Tensor, harms: Tensor, options: Sequence[Option], room: int) -> _Frontier:
    """Return every choice with every option added; costs are those above the cheapest options."""
    cheapest = min(option.cost for option in options)
    extra_P = torch.tensor([option.cost - cheapest for option in options])
    harm_P = torch.tensor([option.harm for option in options], dtype=torch.float64)
    cost_nP = costs[:, None] + extra_P
    earlier, option = (cost_nP <= room).nonzero(as_tuple=True)
    return _Frontier(cost_nP[earlier, option], harms[earlier] + harm_P[option], option, earlier)


def _undominated(choices: _Frontier) -> _Frontier:
    """Keep, by rising cost, the choices that do less harm than all cheaper ones."""
    by_harm = choices.at(choices.harms.argsort(stable=True))
    ordered = by_harm.at(by_harm.costs.argsort(stable=True))
    least = ordered.harms.cummin(0).values
    better = torch.ones(len(least), dtype=torch.bool)
    better[1:] = ordered.harms[1:] < least[:-1]
    return ordered.at(better.nonzero().flatten())


def _thinned(frontier: _Frontier, room: int, max_states: int) -> _Frontier:
    """Keep the least harmful choice of each of `max_states` equal ranges of cost."""
    if len(frontier.costs) <= max_states:
        return frontier
    ranges = frontier.costs * max_states // (room + 1)
    last = torch.ones(len(ranges), dtype=torch.bool)
    last[:-1] = ranges[1:] != ranges[:-1]
    return frontier.at(last.nonzero().flatten())

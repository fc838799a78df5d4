"""Mixtures: how often each document of each source is seen in a pass over the data.

A source of n tokens and weight w gets a share of the tokens in proportion to w * n^(1/T), where T
is the temperature (Devlin et al. 2018, multilingual BERT; here with weights):

* T = 1 (the default): a source of weight 2 is seen twice in a pass, one of weight 0.5 by half, one
  of weight 1 once. Files that are only listed are seen once, all of them.
* T > 1: sizes matter less; a pass has as many tokens as the sources together.
* T infinite: sizes do not matter, and the weights are the shares of the tokens, as in the mixtures
  of Megatron and PaddleNLP ("weight prefix weight prefix ...").

Where a source is seen 2.3 times in a pass, each of its documents is in it twice, and the next 0.3
of a shuffled order of them once more; the next pass goes on in that order, so no document is
favoured. Everything depends on the seed and the number of the pass alone.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from danlu.data.documents import Numbers
from danlu.data.mixing.sampler import RowSampler
from danlu.errors import DataError

_WHOLE = 1e-9


@dataclass(frozen=True)
class Share:
    """A source in a mixture.

    Attributes:
        source: its path.
        weight: as the user gave it.
        documents, tokens: how many it has.
        times: how often each document is seen in a pass, on average.
        share: its part of the tokens of a pass.
    """

    source: str
    weight: float
    documents: int
    tokens: int
    times: float
    share: float

    def as_json(self) -> dict[str, Any]:
        """Return plain JSON values, rounded for reading."""
        return {**asdict(self), "times": round(self.times, 4), "share": round(self.share, 4)}


def shares_of(
    sources: Sequence[tuple[str, float, Numbers]], temperature: float = 1.0
) -> list[Share]:
    """Return how often each source is seen.

    Args:
        sources: per source its path, its weight and the tokens of each document.
        temperature: see the head of this module.

    Raises:
        DataError: if a source has no documents.
    """
    empty = [name for name, _, lengths in sources if not len(lengths)]
    if empty:
        raise DataError(
            f"Nothing is left to learn of {', '.join(empty)}; expected at least one document of "
            "each source. Remove it from the mixture, or look into the ledger."
        )
    tokens = [int(lengths.sum()) for _, _, lengths in sources]
    weights = [weight for _, weight, _ in sources]
    times = _times(tokens, weights, temperature)
    seen = [each * many for each, many in zip(tokens, times, strict=True)]
    return [
        Share(name, weight, len(lengths), tokens[i], times[i], seen[i] / sum(seen))
        for i, (name, weight, lengths) in enumerate(sources)
    ]


def _times(tokens: Sequence[int], weights: Sequence[float], temperature: float) -> list[float]:
    if temperature == 1:
        return list(weights)
    power = 1.0 / temperature
    parts = [weight * many**power for weight, many in zip(weights, tokens, strict=True)]
    scale = sum(tokens) / sum(parts)
    return [scale * part / many for part, many in zip(parts, tokens, strict=True)]


class Mixture:
    """Which documents each pass has.

    Args:
        documents: per source, the numbers of its documents.
        times: per source, how often each is seen in a pass.
        seed: decides which documents a part of a source is.
    """

    def __init__(self, documents: Sequence[Numbers], times: Sequence[float], seed: int) -> None:
        self._documents = list(documents)
        self._times = [_split(many) for many in times]
        self._seed = seed

    @property
    def is_fixed(self) -> bool:
        """Does every pass have the same documents?"""
        return all(part == 0 for _, part in self._times)

    def of_pass(self, number: int) -> Numbers:
        """Return the numbers of the documents of a pass (from 0), source after source."""
        chosen: list[Numbers] = [np.empty(0, np.int64)]
        for source, (whole, part) in enumerate(self._times):
            chosen += [self._documents[source]] * whole
            chosen.append(self._next_part(source, part, number))
        return np.concatenate(chosen)

    def _next_part(self, source: int, part: float, number: int) -> Numbers:
        documents = self._documents[source]
        count = round(part * len(documents))
        if not count:
            return np.empty(0, np.int64)
        sampler = RowSampler(len(documents), f"mixture:{self._seed}:{source}", number * count)
        places: Numbers = np.sort(np.array(sampler.take(count), np.int64))
        return documents.take(places)


def _split(times: float) -> tuple[int, float]:
    """Return how many whole times, and which part of one more."""
    whole = int(times + _WHOLE)
    part = times - whole
    return whole, part if part > _WHOLE else 0.0

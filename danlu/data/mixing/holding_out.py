"""Which examples are held out: decided by their content and a seed alone.

Equal texts stay together, and an example keeps its side when others come or go.
"""

import hashlib
from collections.abc import Iterable

from danlu.errors import DataError


def draw(text: str, seed: int) -> float:
    """Return a number in [0, 1) fixed by text and seed."""
    digest = hashlib.sha256(f"{seed}\n{text}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def held_out_limit(draws: Iterable[float], fraction: float) -> float:
    """Return the limit below which a draw is held out, so that neither side is left empty.

    Args:
        draws: of all examples.
        fraction: about which share of the examples to hold out, in (0, 1).

    Raises:
        DataError: if `fraction` is out of range, or fewer than two different examples are given.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(
            f"The held-out fraction is {fraction}; expected more than 0 and less than 1."
        )
    different = sorted(set(draws))
    if len(different) < 2:
        raise DataError(
            f"The data has {len(different)} different documents; expected at least 2, to train on "
            "some and hold out others. Give more of it, or separate held-out data."
        )
    return min(max(fraction, different[1]), different[-1])  # holds out the first, never the last

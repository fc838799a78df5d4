"""Sizes and shares as people write them: 6GB, 1%."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator, Field

UNITS = {
    **{"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9},
    **{"kib": 2**10, "mib": 2**20, "gib": 2**30},
}


def parse_size(text: str) -> int:
    """Return the number of bytes that "5GB", "500 MB" or "2GiB" means.

    Raises:
        ValueError: if it is no positive size.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([a-z]*)\s*", text.lower())
    unit = UNITS.get(match[2]) if match else None
    size = int(float(match[1]) * unit) if match and unit else 0
    if size <= 0:
        raise ValueError(
            f"{text!r} is no size; expected a positive number with a unit, such as 5GB or 500MB"
        )
    return size


def parse_share(text: str) -> float:
    """Return the share that "1%" or "0.01" means.

    Raises:
        ValueError: if it is no share.
    """
    match = re.fullmatch(r"\s*(\d+(?:\.\d*)?|\.\d+)\s*(%?)\s*", text)
    if match is None:
        raise ValueError(f"{text!r} is no share; expected 1% or 0.01")
    return float(match[1]) / (100 if match[2] else 1)


def _size(given: Any) -> Any:
    return parse_size(given) if isinstance(given, str) else given


def _share(given: Any) -> Any:
    return parse_share(given) if isinstance(given, str) else given


Size = Annotated[int, Field(gt=0), BeforeValidator(_size)]
Share = Annotated[float, Field(ge=0), BeforeValidator(_share)]

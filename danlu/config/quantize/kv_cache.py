"""Keys and values in few bits."""

from typing import Literal

from pydantic import Field

from danlu.config.base import Config


class KvCacheScheme(Config):
    """How keys and values are kept."""

    bits: Literal[8] = Field(8, description="bits of a key or value")
    scales: Literal["token", "head"] = Field(
        "token",
        description="token: one scale for each token and head, as it comes; head: one for each "
        "head, from calibration text",
    )

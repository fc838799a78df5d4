"""Keys and values in few bits."""

from typing import Annotated, Literal

from pydantic import Field

from danlu.config.base import Config

KvCacheName = Literal["int8", "plain"]
CACHE_HELP = "int8: 8 bits; plain: as they come; default: as the folder says, else plain"

Scale = Annotated[float, Field(gt=0)]
LayerScales = Annotated[list[Scale], Field(min_length=1)]


class KvCacheScheme(Config):
    """How keys and values are kept."""

    bits: Literal[8] = Field(8, description="bits of a key or value")
    scales: Literal["token", "head", "tensor"] = Field(
        "token",
        description="token: one scale for each token and head, as it comes; from calibration text: "
        "head: one for each head; tensor: one for each layer, as other tools read it",
    )


class KvCacheNote(Config):
    """How a folder says that keys and values are kept, where its format has no place for it."""

    scheme: KvCacheScheme = Field(description="how they are kept")
    keys: list[LayerScales] = Field(
        default_factory=list, description="fixed scales of the keys, of each layer and head"
    )
    values: list[LayerScales] = Field(
        default_factory=list, description="fixed scales of the values, likewise"
    )

"""How an adapter is attached."""

from typing import Literal

from pydantic import Field

from danlu.config.base import Config


class LoraConfig(Config):
    """Low-rank adaptation (arXiv:2106.09685): W + B A * alpha / rank."""

    lora_rank: int = Field(8, description="rank of the update", ge=1)
    lora_alpha: float = Field(16.0, description="the update is scaled by alpha / rank", gt=0)
    lora_dropout: float = Field(0.0, description="dropout on the adapter's input", ge=0, lt=1)
    targets: Literal["all-linear"] | list[str] = Field(
        "all-linear",
        description="linear layers to adapt: all but the head, or name endings such as q_proj",
    )

"""How a model is quantized."""

from typing import Literal, Self

from pydantic import Field, model_validator

from danlu.config.base import Config

KERNEL_GROUP_SIZES = (32, 64, 128, 256)


class QuantScheme(Config):
    """Weight-only integers: w = (code - zero point) * scale, one scale per group of inputs."""

    method: Literal["rtn"] = Field("rtn", description="rtn: round to nearest")
    bits: Literal[4, 8] = Field(4, description="bits per weight")
    group_size: int = Field(
        32, description="inputs that share a scale; -1: one scale per output row", ge=-1
    )
    symmetric: bool = Field(False, description="no zero points; codes are symmetric around 0")
    head_bits: Literal[4, 8, 16] = Field(
        8, description="bits of the output head; 16 leaves it as it is"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.group_size == 0:
            raise ValueError("group_size is 0; expected a positive number, or -1 for whole rows")
        return self


PRESETS: dict[str, QuantScheme] = {
    "int8": QuantScheme(bits=8, group_size=-1, symmetric=True, head_bits=8),
    "int4": QuantScheme(bits=4, group_size=32, symmetric=False, head_bits=8),
}

"""How a model is quantized."""

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from danlu.config.base import Config
from danlu.errors import ConfigError, did_you_mean

KERNEL_GROUP_SIZES = (32, 64, 128, 256)


class QuantScheme(Config):
    """Weight-only integers: w = (code - zero point) * scale, one scale per group of inputs."""

    method: Literal["rtn"] = Field(
        "rtn", description="how weights are rounded; rtn: to the nearest"
    )
    bits: Literal[4, 8] = Field(4, description="bits per weight")
    group_size: int | None = Field(
        None,
        description="inputs that share a scale, -1 for a whole row; by default 32 for 4 bits and "
        "a whole row for 8",
        ge=-1,
    )
    symmetric: bool | None = Field(
        None, description="no zero points; by default true for 8 bits and false for 4"
    )
    head_bits: Literal[4, 8, 16] | None = Field(
        None, description="bits of the output head; by default as the others; 16 leaves it alone"
    )

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Let the bits decide what was left open."""
        if not isinstance(values, dict):
            return values
        eight = values.get("bits") == 8
        given = {key: value for key, value in values.items() if value is not None}
        return {"group_size": -1 if eight else 32, "symmetric": eight, **given}

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.group_size == 0:
            raise ValueError("group_size is 0; expected a positive number, or -1 for whole rows")
        return self


PRESETS: dict[str, QuantScheme] = {"int8": QuantScheme(bits=8), "int4": QuantScheme(bits=4)}


def preset(name: str) -> QuantScheme:
    """Return the scheme called `name`, or raise a `ConfigError` with the known ones."""
    if name not in PRESETS:
        raise ConfigError(
            f"There is no quantization {name!r}.{did_you_mean(name, PRESETS)} "
            f"Expected {' or '.join(map(repr, PRESETS))}, or a QuantScheme."
        )
    return PRESETS[name]

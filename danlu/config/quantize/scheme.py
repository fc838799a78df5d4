"""Schemes that need no text: weights are rounded as they arrive."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from danlu.config.base import Config
from danlu.errors import ConfigError, did_you_mean

KERNEL_GROUP_SIZES = (32, 64, 128, 256)
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

PresetName = Literal["int8", "int4", "nf4", "fp4"]
GRID_KEYS = ("group_size", "symmetric")
BOOK_KEYS = ("block_size", "double_quant", "double_quant_block_size")


class QuantScheme(Config):
    """Weights in few bits: integers (rtn), or entries of a table of 16 numbers (nf4, fp4)."""

    method: Literal["rtn", "nf4", "fp4"] = Field(
        "rtn",
        description="how weights are rounded; rtn: to the nearest integer; nf4, fp4: to the "
        "nearest of 16 numbers, as QLoRA does",
    )
    bits: Literal[2, 3, 4, 8] = Field(4, description="bits per weight; nf4 and fp4 have 4")
    group_size: int | None = Field(
        None,
        description="rtn: inputs that share a scale, -1 for a whole row; by default 32, "
        "and a whole row for 8 bits",
        ge=-1,
    )
    symmetric: bool | None = Field(
        None, description="rtn: no zero points; by default true for 8 bits, else false"
    )
    block_size: int | None = Field(
        None,
        description="nf4 and fp4: weights that share a scale, a power of two from 32 to 4096; "
        "by default 64",
    )
    double_quant: bool | None = Field(
        None,
        description="nf4 and fp4: store the scales in 8 bits too; by default true, as in QLoRA",
    )
    double_quant_block_size: int | None = Field(
        None, description="nf4 and fp4: scales that share a scale; by default 256", ge=1
    )
    head_bits: Literal[4, 8, 16] | None = Field(
        None,
        description="bits of the output head, 16 leaves it alone; by default as the others for "
        "rtn, and alone for nf4 and fp4",
    )

    @property
    def is_code_book(self) -> bool:
        """Whether codes name entries of a table."""
        return self.method != "rtn"

    @property
    def summary(self) -> str:
        """The scheme in words."""
        if self.is_code_book:
            scales = ", double quantization" if self.double_quant else ""
            return f"{self.method}, {self.bits} bits, blocks of {self.block_size}{scales}"
        spans = "whole rows" if self.group_size == -1 else f"groups of {self.group_size}"
        return f"{self.method}, {self.bits} bits, {spans}"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Let method and bits decide what was left open."""
        if not isinstance(values, dict):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        if given.get("method", "rtn") == "rtn":
            eight = values.get("bits") == 8
            return {"group_size": -1 if eight else 32, "symmetric": eight, **given}
        return {"block_size": 64, "double_quant": True, "double_quant_block_size": 256, **given}

    @model_validator(mode="after")
    def _check(self) -> Self:
        foreign = GRID_KEYS if self.is_code_book else BOOK_KEYS
        own = BOOK_KEYS if self.is_code_book else GRID_KEYS
        wrong = [key for key in foreign if getattr(self, key) is not None]
        if wrong:
            raise ValueError(
                f"{self.method} has no {' or '.join(wrong)}; expected among {', '.join(own)}"
            )
        if self.group_size == 0:
            raise ValueError("group_size is 0; expected a positive number, or -1 for whole rows")
        if self.is_code_book and self.bits != 4:
            raise ValueError(f"{self.method} has 4 bits, not {self.bits}")
        if self.block_size is not None and self.block_size not in BLOCK_SIZES:
            known = ", ".join(map(str, BLOCK_SIZES))
            raise ValueError(f"block_size is {self.block_size}; expected one of {known}")
        return self


def _form(value: Any) -> str:
    """Return the tag of what a value is meant as, so that only its problems are told."""
    return "QuantScheme" if isinstance(value, dict | QuantScheme) else "<name>"


Quantization = Annotated[
    Annotated[PresetName, Tag("<name>")] | Annotated[QuantScheme, Tag("QuantScheme")],
    Discriminator(_form),
]

PRESETS: Mapping[str, QuantScheme] = {
    "int8": QuantScheme(bits=8),
    "int4": QuantScheme(bits=4),
    "nf4": QuantScheme(method="nf4"),
    "fp4": QuantScheme(method="fp4"),
}


def preset(name: str) -> QuantScheme:
    """Return the scheme called `name`, or raise a `ConfigError` with the known ones."""
    if name not in PRESETS:
        raise ConfigError(
            f"There is no quantization {name!r}.{did_you_mean(name, PRESETS)} "
            f"Expected {' or '.join(map(repr, PRESETS))}, or a QuantScheme."
        )
    return PRESETS[name]

"""Schemes that need no text: weights are rounded as they arrive."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from danlu.config.base import Config
from danlu.config.quantize.grouping import GroupSize, span_words
from danlu.errors import ConfigError, did_you_mean

KERNEL_GROUP_SIZES = (32, 64, 128, 256)
BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)

PresetName = Literal["int8", "int4", "nf4", "fp4", "llm_int8", "w8a8"]
GRID_KEYS = ("group_size", "symmetric", "activations")
BOOK_KEYS = ("block_size", "double_quant", "double_quant_block_size")
KEYS = {"rtn": GRID_KEYS, "nf4": BOOK_KEYS, "fp4": BOOK_KEYS, "llm_int8": ("threshold",)}
BITS = {"nf4": 4, "fp4": 4, "llm_int8": 8}


class QuantScheme(Config):
    """Weights in few bits: integers (rtn, llm_int8), or entries of a table of 16 (nf4, fp4)."""

    method: Literal["rtn", "nf4", "fp4", "llm_int8"] = Field(
        "rtn",
        description="how weights are rounded; rtn: to the nearest integer; nf4, fp4: to the "
        "nearest of 16 numbers, as QLoRA does; llm_int8: to 8-bit integers, and inputs too but "
        "for columns with large ones",
    )
    bits: Literal[2, 3, 4, 8] = Field(
        4, description="bits per weight; nf4 and fp4 have 4, llm_int8 8"
    )
    group_size: GroupSize | None = Field(
        None,
        description="rtn: inputs that share a scale, -1 for a whole row; by default 32, "
        "and a whole row for 8 bits and where 32 does not divide the inputs",
    )
    symmetric: bool | None = Field(
        None, description="rtn: no zero points; by default true for 8 bits, else false"
    )
    activations: Literal["dynamic"] | None = Field(
        None,
        description="rtn in 8 bits by whole rows: dynamic rounds inputs too, on a scale for each "
        "token as it comes; by default they stay as they are",
    )
    threshold: float | None = Field(
        None,
        description="llm_int8: size from which an input keeps its column exact, 0 for none; by "
        "default 6",
        ge=0,
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
        "rtn, and alone for nf4 and fp4 and where inputs are rounded",
    )

    @property
    def is_code_book(self) -> bool:
        """Whether codes name entries of a table."""
        return self.method in ("nf4", "fp4")

    @property
    def rounds_inputs(self) -> bool:
        """Whether what enters a layer is rounded too."""
        return self.method == "llm_int8" or self.activations is not None

    @property
    def summary(self) -> str:
        """The scheme in words."""
        if self.is_code_book:
            scales = ", double quantization" if self.double_quant else ""
            return f"{self.method}, {self.bits} bits, blocks of {self.block_size}{scales}"
        if self.method == "llm_int8":
            return f"llm_int8, 8 bits, inputs from {self.threshold:g} on exact"
        spans = span_words(self.method, self.group_size)
        inputs = ", inputs in 8 bits" if self.activations else ""
        return f"{self.method}, {self.bits} bits, {spans}{inputs}"

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, values: Any) -> Any:
        """Let method and bits decide what was left open."""
        if not isinstance(values, dict):
            return values
        given = {key: value for key, value in values.items() if value is not None}
        method = given.get("method", "rtn")
        if method == "llm_int8":
            return {"bits": 8, "threshold": 6.0, **given}
        if method == "rtn":
            bits = given.get("bits", 8 if "activations" in given else 4)
            rows = {"group_size": -1, "symmetric": True}
            return {"bits": bits, **(rows if bits == 8 else {"symmetric": False}), **given}
        return {"block_size": 64, "double_quant": True, "double_quant_block_size": 256, **given}

    @model_validator(mode="after")
    def _check(self) -> Self:
        own = KEYS[self.method]
        foreign = {key: None for keys in KEYS.values() for key in keys if key not in own}
        wrong = [key for key in foreign if getattr(self, key) is not None]
        if wrong:
            raise ValueError(
                f"{self.method} has no {' or '.join(wrong)}; expected among {', '.join(own)}"
            )
        if self.bits != BITS.get(self.method, self.bits):
            raise ValueError(f"{self.method} has {BITS[self.method]} bits, not {self.bits}")
        if self.activations and (self.bits, self.group_size, self.symmetric) != (8, -1, True):
            raise ValueError(
                "activations are rounded for products of 8-bit integers; expected bits 8, "
                f"group_size -1 and symmetric beside them, not {self.bits}, {self.group_size} and "
                f"{'symmetric' if self.symmetric else 'not symmetric'}"
            )
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
    "llm_int8": QuantScheme(method="llm_int8"),
    "w8a8": QuantScheme(activations="dynamic"),
}


def preset(name: str) -> QuantScheme:
    """Return the scheme called `name`, or raise a `ConfigError` with the known ones."""
    if name not in PRESETS:
        raise ConfigError(
            f"There is no quantization {name!r}.{did_you_mean(name, PRESETS)} "
            f"Expected {' or '.join(map(repr, PRESETS))}, or a QuantScheme."
        )
    return PRESETS[name]

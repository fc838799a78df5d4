"""AWQ: inputs that matter most are scaled up before weights are rounded."""

from typing import Literal

from pydantic import Field

from danlu.config.base import Config
from danlu.config.quantize.grouping import GroupSize, span_words


class AwqScheme(Config):
    """AWQ (arXiv:2306.00978), on calibration text."""

    method: Literal["awq"] = Field(
        "awq", description="awq: scales inputs and clips weights, as found best on calibration text"
    )
    bits: Literal[4] = Field(4, description="bits per weight")
    group_size: GroupSize | None = Field(
        None,
        description="inputs that share a scale, -1 for a whole row; by default 128, or the larger "
        "of 64 and 32 that divides the inputs of a layer, or a whole row",
    )
    symmetric: bool = Field(False, description="no zero points")
    scale_steps: int = Field(20, ge=1, description="exponents tried for the scales, from 0 to 1")
    clip: bool = Field(True, description="also search how far large weights are clipped")

    @property
    def summary(self) -> str:
        """The scheme in words."""
        return f"{self.method}, {self.bits} bits, {span_words(self.method, self.group_size)}"

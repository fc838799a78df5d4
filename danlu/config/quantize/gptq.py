"""GPTQ: weights rounded one input at a time, each error made good by the inputs that follow."""

from typing import Literal

from pydantic import Field

from danlu.config.base import Config
from danlu.config.quantize.grouping import GroupSize, span_words


class GptqScheme(Config):
    """GPTQ (arXiv:2210.17323), on calibration text."""

    method: Literal["gptq"] = Field(
        "gptq", description="gptq: rounds so that the outputs on calibration text change least"
    )
    bits: Literal[2, 3, 4, 8] = Field(4, description="bits per weight")
    group_size: GroupSize | None = Field(
        None,
        description="inputs that share a scale, -1 for a whole row; by default 128, or the larger "
        "of 64 and 32 that divides the inputs of a layer, or a whole row",
    )
    symmetric: bool = Field(True, description="no zero points")
    act_order: bool = Field(
        True, description="round the inputs with the largest activations first (desc_act)"
    )
    static_groups: bool = Field(
        True,
        description="act_order: groups stay runs of inputs, which every kernel can read; false: "
        "groups follow the order of rounding, a little better and read by few",
    )
    damping: float = Field(
        0.05,
        gt=0,
        description="share of the mean curvature added to the diagonal; raised step by step where "
        "that is not enough",
    )

    @property
    def summary(self) -> str:
        """The scheme in words."""
        spans = span_words(self.method, self.group_size)
        order = ", act-order" if self.act_order else ""
        return f"{self.method}, {self.bits} bits, {spans}{order}"

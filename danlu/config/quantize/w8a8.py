"""W8A8: weights and activations in 8 bits, made fit for it by shifting and smoothing."""

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from danlu.config.base import Config

Range = Annotated[tuple[float, float], Field(min_length=2, max_length=2)]


class SmoothConfig(Config):
    """SmoothQuant (arXiv:2211.10438): activations give a part of their range to the weights."""

    alpha: float | None = Field(
        None, ge=0, le=1, description="part that is given away; null: searched for each group"
    )
    ranges: Literal["absolute", "span"] = Field(
        "absolute",
        description="size of a channel; absolute: its largest absolute value, as in the paper; "
        "span: from its smallest to its largest value, as llmcompressor takes it",
    )
    all_linears: bool = Field(
        True,
        description="also layers not fed by a norm, where the scales fold into the layer before",
    )
    sampler: Literal["none", "multi_step"] = Field(
        "multi_step",
        description="inputs that scales are searched on; none: of the last batch alone; "
        "multi_step: of all batches together. Ranges are always those of all batches",
    )
    steps: int = Field(32, ge=1, description="calibration batches that are looked at")
    piecewise_search: bool = Field(
        False, description="cut channels into pieces by their range, and search each piece"
    )
    k_piece: int = Field(3, ge=1, description="pieces; 3 for models of 10 B, 6 for 100 B")
    search_piece: bool = Field(False, description="also search the number of pieces, up to k_piece")
    search_alpha: Range = Field((0.2, 0.8), description="exponents searched, from and to")
    search_scale: Range = Field(
        (1.0, 5.0),
        description="piecewise_search: numbers searched as the one scale of a piece, from and to",
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.search_alpha
        if not 0 <= low <= high <= 1:
            raise ValueError(f"search_alpha is {low} to {high}; expected 0 <= from <= to <= 1")
        low, high = self.search_scale
        if not 0 < low <= high:
            raise ValueError(f"search_scale is {low} to {high}; expected 0 < from <= to")
        if self.alpha is not None and self.piecewise_search:
            raise ValueError(
                f"alpha is {self.alpha}, so piecewise_search has nothing to search; expected one "
                "of the two"
            )
        if self.search_piece and not self.piecewise_search:
            raise ValueError("search_piece needs piecewise_search, which is false")
        return self


class ShiftConfig(Config):
    """Outlier Suppression+ (arXiv:2304.09145): activations are centred, channel by channel.

    A shift needs a bias in the layer before and in those behind, as models with LayerNorm have.
    """

    all_linears: bool = Field(
        True, description="also layers not fed by a norm, where the shift folds into the one before"
    )
    sampler: Literal["none", "ema"] = Field(
        "none",
        description="middle of a channel; none: of its range over all batches; ema: its mean, "
        "smoothed over the batches",
    )
    steps: int = Field(32, ge=1, description="calibration batches that are looked at")


class W8A8Scheme(Config):
    """Weights and activations in 8 bits, on calibration text."""

    method: Literal["w8a8"] = Field(
        "w8a8", description="w8a8: 8-bit weights and activations, by integer products"
    )
    bits: Literal[8] = Field(8, description="bits of weights and activations")
    smooth: SmoothConfig | None = Field(
        default_factory=SmoothConfig, description="smoothing; null: none"
    )
    shift: ShiftConfig | None = Field(None, description="shifting; null: none")
    activations: Literal["dynamic", "static"] = Field(
        "dynamic",
        description="dynamic: a scale for each token as it comes; static: one scale for all, from "
        "calibration text",
    )

    @property
    def summary(self) -> str:
        """The scheme in words."""
        made = [name for name in ("smooth", "shift") if getattr(self, name) is not None]
        return ", ".join([f"w8a8, {self.activations} activations", *made])

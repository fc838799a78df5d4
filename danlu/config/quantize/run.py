"""The run file of `danlu quantize`: what, how, on which text, and what it may cost."""

from typing import Annotated, Any, Literal

from pydantic import Field, Tag

from danlu.config.base import Config, Seed, by_method
from danlu.config.data import Sources
from danlu.config.quantize.awq import AwqScheme
from danlu.config.quantize.gptq import GptqScheme
from danlu.config.quantize.grouping import USUAL, usual_group_size
from danlu.config.quantize.kv_cache import KvCacheScheme
from danlu.config.quantize.scheme import QuantScheme
from danlu.config.quantize.w8a8 import W8A8Scheme
from danlu.config.sizes import Share, Size

Scheme = QuantScheme | GptqScheme | AwqScheme | W8A8Scheme
SchemeConfig = Annotated[
    Annotated[QuantScheme, Tag("QuantScheme")]
    | Annotated[GptqScheme, Tag("GptqScheme")]
    | Annotated[AwqScheme, Tag("AwqScheme")]
    | Annotated[W8A8Scheme, Tag("W8A8Scheme")],
    by_method(QuantScheme, GptqScheme, AwqScheme, W8A8Scheme),
]


class CalibrationData(Config):
    """The text that activations are watched on."""

    sources: Sources | None = Field(
        None,
        description="rows in any shape that fine-tuning reads, or plain text; a quant.json in a "
        "folder comes first; null: texts that the model writes itself",
    )
    samples: int = Field(128, ge=1, description="rows at most")
    max_tokens: int = Field(512, ge=1, description="tokens of a row at most")


class Override(Config):
    """Layers that are quantized otherwise."""

    match: str = Field(
        min_length=1,
        description="pattern of layer names, such as model.layers.0.* or *.down_proj",
    )
    scheme: SchemeConfig | None = Field(description="how; null: left alone")


class Bounds(Config):
    """What quantization may cost; more is a failure."""

    max_ppl_increase: Share | None = Field(
        None, description="growth of the perplexity on the text compared, as 1% or 0.01"
    )
    max_kl: float | None = Field(
        None, ge=0, description="mean KL divergence from the original, in nats"
    )


class Fit(Config):
    """A budget that bits are shared out in."""

    bytes: Size = Field(description="for weights and cache together, as 6GB or 800MB")
    cache_tokens: int = Field(4096, ge=0, description="tokens whose keys and values must fit too")


class QuantizeReporting(Config):
    """What is compared and measured at the end."""

    text: str | None = Field(
        None, description="held-out text to compare on; null: texts that the model writes itself"
    )
    samples: int = Field(16, ge=0, description="answers of both models side by side")
    speed: bool = Field(True, description="measure prefill and decode of both")


class QuantizeRun(Config):
    """A model in fewer bits, with what that costs and gains."""

    model: str = Field(min_length=1, description="folder of the model", examples=["model"])
    out: str = Field(min_length=1, description="a new folder", examples=["model-int4"])
    family: str | None = Field(None, description="family, where config.json does not tell it")
    seed: Seed = Field(0, description="decides texts that are written and rows that are drawn")
    scheme: SchemeConfig = Field(default_factory=QuantScheme, description="how weights are rounded")
    skip: list[str] = Field(
        default_factory=list, description="patterns of layers that are left alone"
    )
    overrides: list[Override] = Field(
        default_factory=list, description="layers that are quantized otherwise; the first match"
    )
    kv_cache: KvCacheScheme | None = Field(None, description="keys and values in 8 bits")
    calibration: CalibrationData = Field(
        default_factory=CalibrationData, description="text that activations are watched on"
    )
    format: str | None = Field(
        None, description="format of the files; null: the method's own (see `danlu quantize -h`)"
    )
    export: Literal["transformers"] | None = Field(
        None, description="first re-express the model as an architecture that other tools open"
    )
    bounds: Bounds = Field(default_factory=Bounds, description="what it may cost")
    fit: Fit | None = Field(None, description="choose bits and method for each layer by a budget")
    report: QuantizeReporting = Field(
        default_factory=QuantizeReporting, description="what is compared and measured"
    )
    device: str = Field("auto", description="where blocks are worked on")


def plain(scheme: Scheme) -> dict[str, Any]:
    """Return a scheme as plain values, without what the method does not have."""
    return scheme.model_dump(mode="json", exclude_none=True)


def for_inputs(scheme: Scheme, inputs: int) -> Scheme:
    """Return a scheme with its group size decided, for a layer with so many inputs."""
    if scheme.method not in USUAL or getattr(scheme, "group_size", None) is not None:
        return scheme
    return scheme.model_copy(update={"group_size": usual_group_size(scheme.method, inputs)})

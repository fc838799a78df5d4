"""How the quantized layers of a decoder are written: in which format, under which config."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from danlu.errors import QuantizationError
from danlu.loading.layout import published_layout, stored_name
from danlu.loading.quantized import joined_rows
from danlu.models.decoder import Decoder
from danlu.quantize.format import QuantFormat, WrittenFormat, find_format, format_named
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Entry

FORMATS = ("bitsandbytes", "compressed-tensors")  # tried in this order where none is asked for
SHOWN = 8


@dataclass(frozen=True)
class Written:
    """How quantized layers are written.

    Attributes:
        weights: by stored module name.
        format: of their tensors.
        config: the `quantization_config`.
    """

    weights: Mapping[str, QuantizedWeight]
    format: QuantFormat
    config: Mapping[str, Any]

    def files(self) -> dict[str, dict[str, Any]]:
        """Return JSON files that tools look for beside config.json, by name."""
        return self.format.files(self.config) if isinstance(self.format, WrittenFormat) else {}


def written_quantization(decoder: Decoder, name: str | None = None) -> Written | None:
    """Return how the quantized layers are written; None if there are none.

    Args:
        decoder: with its published form.
        name: of a format; None: the one they were read in, else the first that holds them.

    Raises:
        QuantizationError: if a published tensor is quantized in part, or no format holds all.
    """
    weights, plain = _layers(decoder)
    if not weights:
        return None
    if name is not None:
        return _in_format(name, weights, plain)
    as_read = _as_read(decoder, weights)
    return as_read or _in_first(weights, plain)


def _layers(decoder: Decoder) -> tuple[dict[str, QuantizedWeight], list[str]]:
    """Return quantized weights by stored module name, and the other linear modules."""
    published = decoder.published
    assert published is not None
    layers = {name: lin for name, lin in decoder.linears() if isinstance(lin, QuantizedLinear)}
    roles = decoder.linear_roles()
    weights: dict[str, QuantizedWeight] = {}
    plain = []
    for name, entry in published_layout(decoder).entries.items():
        owners = [ours.removesuffix(".weight") for ours in entry.ours]
        module = stored_name(name, published).removesuffix(".weight")
        if any(owner in layers for owner in owners):
            weights[module] = _joined(entry, [layers.get(owner) for owner in owners])
        elif owners[0] in roles and name.endswith(".weight"):
            plain.append(module)
    return weights, plain


def _joined(entry: Entry, layers: list[QuantizedLinear | None]) -> QuantizedWeight:
    """Return the quantized weight of one published tensor, from those of our layers."""
    weights = [layer.quantized() for layer in layers if layer is not None]
    reason = "they are not all quantized."
    if len(weights) == len(layers):
        try:
            return joined_rows(entry, weights)
        except QuantizationError as error:
            reason = str(error)
    raise QuantizationError(
        f"{entry.published} holds {', '.join(entry.ours)}, which cannot be written together: "
        f"{reason} Quantize all of them with one scheme, or none "
        "(danlu.loading.dequantize(decoder) makes them dense)."
    )


def _as_read(decoder: Decoder, weights: Mapping[str, QuantizedWeight]) -> Written | None:
    """Return the form a checkpoint was read in, if what was quantized is what is quantized now."""
    published = decoder.published
    assert published is not None
    if published.quantization is None or published.quantized.keys() != weights.keys():
        return None
    read = find_format(published.quantization)
    weights = {module: w.to(published.quantized[module]) for module, w in weights.items()}
    if not all(read.fits(weight, published.quantization) for weight in weights.values()):
        return None
    return Written(weights, read, read.kept(published.quantization))


def _in_first(weights: Mapping[str, QuantizedWeight], plain: Sequence[str]) -> Written:
    reasons = []
    for name in FORMATS:
        try:
            return _in_format(name, weights, plain)
        except QuantizationError as error:
            reasons.append(f"{name}: {error}")
    raise QuantizationError("No format holds all quantized layers.\n  " + "\n  ".join(reasons))


def _in_format(name: str, weights: Mapping[str, QuantizedWeight], plain: Sequence[str]) -> Written:
    """Return the layers in one format; raise a `QuantizationError` if it does not hold them."""
    chosen = format_named(name)
    config = chosen.config(weights, plain, name)
    wrong = [module for module, weight in weights.items() if not chosen.fits(weight, config)]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise QuantizationError(
            f"{', '.join(wrong[:SHOWN])}{more} cannot be written as {name} without changing "
            "numbers. Choose another format, or make the layers dense with "
            "danlu.loading.dequantize(decoder), then save."
        )
    return Written(weights, chosen, config)

"""How the quantized layers of a decoder are written: in which format, under which config."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from torch import Tensor

from danlu.errors import QuantizationError
from danlu.loading.layout import published_layout, stored_name
from danlu.loading.quantized import joined_rows
from danlu.models.decoder import Decoder
from danlu.quantize.activations import InputRounding
from danlu.quantize.format import (
    InputFormat,
    QuantFormat,
    WrittenFormat,
    find_format,
    format_named,
)
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
        inputs: how layers round their inputs, of those that do.
        format: of their tensors.
        config: the `quantization_config`.
    """

    weights: Mapping[str, QuantizedWeight]
    inputs: Mapping[str, InputRounding]
    format: QuantFormat
    config: Mapping[str, Any]

    def parts(self, module: str) -> dict[str, Tensor]:
        """Return the tensors of one layer by the names of its parts."""
        parts = self.format.encode(self.weights[module], self.config)
        if isinstance(self.format, InputFormat):
            parts |= self.format.encode_inputs(self.inputs.get(module))
        return parts

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
    layers = _layers(decoder)
    if not layers.weights:
        return None
    if name is not None:
        return _in_format(name, layers)
    return _as_read(decoder, layers) or _in_first(layers)


class _Layers(NamedTuple):
    """Quantized weights and roundings by stored module name, and the other linear modules."""

    weights: dict[str, QuantizedWeight]
    inputs: dict[str, InputRounding]
    plain: list[str]


def _layers(decoder: Decoder) -> _Layers:
    published = decoder.published
    assert published is not None
    layers = {name: lin for name, lin in decoder.linears() if isinstance(lin, QuantizedLinear)}
    roles = decoder.linear_roles()
    found = _Layers({}, {}, [])
    for name, entry in published_layout(decoder).entries.items():
        owners = [ours.removesuffix(".weight") for ours in entry.ours]
        module = stored_name(name, published).removesuffix(".weight")
        if any(owner in layers for owner in owners):
            parts = [layers.get(owner) for owner in owners]
            found.weights[module] = _joined(entry, parts)
            inputs = _joined_inputs(entry, parts)
            found.inputs.update({module: inputs} if inputs is not None else {})
        elif owners[0] in roles and name.endswith(".weight"):
            found.plain.append(module)
    return found


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


def _joined_inputs(entry: Entry, layers: list[QuantizedLinear | None]) -> InputRounding | None:
    """Return how the inputs of one published tensor are rounded, which our layers agree on."""
    inputs = [None if layer is None else layer.inputs for layer in layers]
    first = inputs[0]
    if not all(other is None if first is None else first.same_as(other) for other in inputs):
        raise QuantizationError(
            f"{entry.published} holds {', '.join(entry.ours)}, whose inputs are rounded each in "
            "its own way; expected one, since they get one input. Quantize them with one scheme."
        )
    return first


def _as_read(decoder: Decoder, layers: _Layers) -> Written | None:
    """Return the form a checkpoint was read in, if what was quantized is what is quantized now."""
    published = decoder.published
    assert published is not None
    if published.quantization is None or published.quantized.keys() != layers.weights.keys():
        return None
    config, read = published.quantization, find_format(published.quantization)
    weights = {module: w.to(published.quantized[module]) for module, w in layers.weights.items()}
    if not all(read.fits(weight, config) for weight in weights.values()):
        return None
    if not all(_inputs_fit(module, layers.inputs, read, config) for module in weights):
        return None
    return Written(weights, layers.inputs, read, read.kept(config))


def _inputs_fit(
    module: str, inputs: Mapping[str, InputRounding], form: QuantFormat, config: Mapping[str, Any]
) -> bool:
    if isinstance(form, InputFormat):
        return form.fits_inputs(module, inputs.get(module), config)
    return module not in inputs


def _in_first(layers: _Layers) -> Written:
    reasons = []
    for name in FORMATS:
        try:
            return _in_format(name, layers)
        except QuantizationError as error:
            reasons.append(f"{name}: {error}")
    raise QuantizationError("No format holds all quantized layers.\n  " + "\n  ".join(reasons))


def _in_format(name: str, layers: _Layers) -> Written:
    """Return the layers in one format; raise a `QuantizationError` if it does not hold them."""
    chosen = format_named(name)
    if not layers.inputs:
        config = chosen.config(layers.weights, layers.plain, name)
    elif isinstance(chosen, InputFormat):
        config = chosen.config_with_inputs(*layers)
    else:
        raise QuantizationError(
            f"{name} holds weights alone, and {len(layers.inputs)} layers round their inputs too. "
            "Expected compressed-tensors, or bitsandbytes for LLM.int8()."
        )
    wrong = [module for module, w in layers.weights.items() if not chosen.fits(w, config)]
    if wrong:
        more = f" and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise QuantizationError(
            f"{', '.join(wrong[:SHOWN])}{more} cannot be written as {name} without changing "
            "numbers. Choose another format, or make the layers dense with "
            "danlu.loading.dequantize(decoder), then save."
        )
    return Written(layers.weights, layers.inputs, chosen, config)

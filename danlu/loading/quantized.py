"""Quantized folders: where their config is, and which tensors make which layer."""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Size, Tensor, nn

from danlu.errors import QuantizationError
from danlu.loading.building import read_json
from danlu.models.decoder import Decoder
from danlu.nn.linear import Linear
from danlu.quantize.activations import InputRounding
from danlu.quantize.format import InputFormat, Part, QuantFormat, find_format
from danlu.quantize.linear import QuantizedLinear
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Entry

log = logging.getLogger(__name__)

# What tools wrote before transformers put it into config.json, and the method it is of.
FILES_BESIDE = {"quantize_config.json": "gptq", "quant_config.json": "awq"}


def quantization_config(folder: Path, values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return how a checkpoint is quantized, or None.

    Args:
        folder: of the checkpoint, where older tools wrote a file of their own.
        values: its config.json.

    Raises:
        QuantizationError: if config.json names no method.
    """
    own = values.get("quantization_config", values.get("compression_config"))
    if own is not None and not isinstance(own, Mapping):
        raise QuantizationError(
            f"quantization_config in '{folder / 'config.json'}' is {own!r}; expected an object."
        )
    if own:
        return dict(own)
    for name, method in FILES_BESIDE.items():
        if (folder / name).exists():
            return {"quant_method": method, **read_json(folder / name)}
    return None


@dataclass(frozen=True)
class Quantization:
    """A format with the config of one checkpoint.

    Attributes:
        format: reads its tensors.
        config: its `quantization_config`.
    """

    format: QuantFormat
    config: Mapping[str, Any]

    def decode(self, parts: Mapping[str, Tensor]) -> QuantizedWeight:
        """Return the weight that the parts of one layer hold."""
        return self.format.decode(parts, self.config)

    def inputs(self, module: str, parts: Mapping[str, Tensor]) -> InputRounding | None:
        """Return how the inputs of one layer are rounded; None: not at all."""
        if not isinstance(self.format, InputFormat):
            return None
        return self.format.inputs(module, parts, self.config)

    def ignores(self, name: str) -> bool:
        """Return whether a tensor is none of the model's."""
        return any(ignored.covers(name) for ignored in self.format.ignored)


def quantization_of(folder: Path, values: Mapping[str, Any]) -> Quantization | None:
    """Return the quantization of a checkpoint, or None.

    Raises:
        QuantizationError: if its method is not read, naming what is not supported.
    """
    config = quantization_config(folder, values)
    return None if config is None else Quantization(find_format(config), config)


def tell_notes(folder: Path, quantization: Quantization) -> None:
    """Log what the config of a quantized checkpoint says and Danlu does not do."""
    for note in quantization.format.notes(quantization.config):
        log.warning("'%s': %s.", folder, note)


class Layers:
    """The tensors of quantized layers, held until all parts of a layer have arrived.

    Args:
        quantization: of the checkpoint; None: it has no quantized layer.
        names: of all its tensors.
    """

    def __init__(self, quantization: Quantization | None, names: Collection[str]) -> None:
        self._parts: Mapping[str, Part] = {}
        if quantization is not None:
            self._parts = quantization.format.parts(set(names))
        self._expected: dict[str, set[str]] = {}
        self._arrived: dict[str, dict[str, Tensor]] = {}
        for part in self._parts.values():
            self._expected.setdefault(part.module, set()).add(part.name)

    def holds(self, name: str) -> bool:
        """Return whether a tensor is part of a quantized layer."""
        return name in self._parts

    def has(self, module: str) -> bool:
        """Return whether a published module is a quantized layer."""
        return module in self._expected

    def complete_with(self, name: str, tensor: Tensor) -> tuple[str, dict[str, Tensor]] | None:
        """Keep a part; return its layer and all parts of it if it was the last one."""
        if name not in self._parts:
            return None
        module, part = self._parts[name]
        self._arrived.setdefault(module, {})[part] = tensor.clone()
        if self._arrived[module].keys() != self._expected[module]:
            return None
        return module, self._arrived.pop(module)


def rows_of(entry: Entry, weight: QuantizedWeight) -> list[QuantizedWeight]:
    """Return the weights of our layers, of one published weight whose rows are its outputs."""
    numbers = torch.arange(weight.shape[0])
    counts = [Size(shape[:1]) for shape in entry.shapes]
    parts = entry.arrangement.rows.split(numbers, counts)
    return [_taken(weight, rows) for rows in parts]


def joined_rows(entry: Entry, weights: Sequence[QuantizedWeight]) -> QuantizedWeight:
    """Return the weight of one published tensor, of our layers'; the inverse of `rows_of`.

    Raises:
        QuantizationError: if they do not fit into one.
    """
    kinds = {type(weight) for weight in weights}
    if len(kinds) > 1:
        raise QuantizationError("Integers and codes of a table do not fit into one tensor.")
    stacked = weights[0] if len(weights) == 1 else kinds.pop().stacked(weights)
    numbers = torch.arange(stacked.shape[0]).split([weight.shape[0] for weight in weights])
    return _taken(stacked, entry.arrangement.rows.join(numbers))


def _taken(weight: QuantizedWeight, rows: Tensor) -> QuantizedWeight:
    if torch.equal(rows, torch.arange(weight.shape[0])):
        return weight
    return weight.rows(rows)


def dequantize(decoder: Decoder) -> list[str]:
    """Replace every quantized layer by a dense one of the same numbers; return their names.

    What is saved then is dense. Inputs that were rounded stay as they are from then on; keys and
    values are rounded as before. A tied head that was quantized is a matrix of its own; one that
    normalises its rows normalises the rounded ones.
    """
    layers = {name: lin for name, lin in decoder.linears() if isinstance(lin, QuantizedLinear)}
    for name, layer in layers.items():
        with torch.device("meta"):
            make = decoder.config.head if name == "lm_head" else Linear
            plain = make(layer.in_features, layer.out_features)
        plain.weight = nn.Parameter(layer.dense_weight(), requires_grad=False)
        plain.bias = layer.bias
        decoder.replace_linear(name, plain)
    if "lm_head" in layers and decoder.config.tie_word_embeddings:
        _untie(decoder)
    return list(layers)


def take_exact_inputs(decoder: Decoder) -> list[str]:
    """Stop rounding what enters quantized layers, adapted or not; return those that did.

    The weights stay quantized. This is the model that its dense form, merged or not, is like.
    """
    layers = {name: m for name, m in decoder.named_modules() if isinstance(m, QuantizedLinear)}
    rounding = [name for name, layer in layers.items() if layer.inputs is not None]
    for name in rounding:
        layers[name].take_exact_inputs()
    return rounding


def _untie(decoder: Decoder) -> None:
    assert decoder.published is not None
    decoder.config = replace(decoder.config, tie_word_embeddings=False)
    config = {**decoder.published.config, "tie_word_embeddings": False}
    decoder.published = replace(decoder.published, config=config)

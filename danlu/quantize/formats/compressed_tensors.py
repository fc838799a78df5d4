"""compressed-tensors: integers as llm-compressor writes them, and vLLM and transformers read them.

Source: the published files of llm-compressor 0.14. Of a layer X with weight [out, in], packed:
X.weight_packed int32 [out, in * bits / 32], a stream along the inputs, lowest bits first, codes +
2^(bits-1); X.weight_scale [out, G]; X.weight_shape int64 [2]; asymmetric also X.weight_zero_point
int32 [out * bits / 32, G], a stream along the outputs; X.weight_g_idx int32 [in], the group of each
input, where columns were quantized by activation. Not packed (W8A8): X.weight int8 [out, in],
X.weight_scale, X.weight_zero_point int8 [out, G]; where inputs are rounded on one scale also
X.input_scale [1] and X.input_zero_point int8 [1]. In older versions a word held whole codes
alone, which differs for 3 and 5 to 7 bits; that is read too, where it takes more words.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.config.quantize.run import Scheme
from danlu.errors import QuantizationError
from danlu.quantize.activations import InputRounding
from danlu.quantize.format import Part, parts_with, refuse, require
from danlu.quantize.grid import IntegerGrid, regular_groups
from danlu.quantize.layouts.bits import field_words, pack_stream, stream_words, unpack_either
from danlu.quantize.layouts.compressed_cache import cache_notes, reads_cache
from danlu.quantize.layouts.compressed_groups import (
    activation_problems,
    groups_with_weights,
    inputs_fit,
    read_inputs,
)
from danlu.quantize.layouts.compressed_writing import PACKED, PLAIN, written_config
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Ignore

STRATEGIES = ("channel", "group", "tensor")
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
INPUTS = {"scale": "input_scale", "zero_point": "input_zero_point"}
OUTPUTS = "what leaves a layer is not quantized here"
CACHE = "scales of keys and values that are kept as they come"


class CompressedTensors:
    """The format; see the module docstring."""

    names: Sequence[str] = ("compressed-tensors",)
    ignored: Sequence[Ignore] = (
        *(Ignore(f".{end}", OUTPUTS) for end in ("output_scale", "output_zero_point")),
        *(Ignore(f".{end}", CACHE) for end in ("q_scale", "k_scale", "v_scale")),
        *(Ignore(f".{end}", CACHE) for end in ("k_zero_point", "v_zero_point")),
    )

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether the config names compressed-tensors."""
        return config.get("quant_method") == "compressed-tensors"

    def check(self, config: Mapping[str, Any]) -> None:
        """Check every group of layers, and what else changes weights."""
        groups = groups_with_weights(config)
        problems = [problem for group in groups for problem in _problems(group, config)]
        if (config.get("sparsity_config") or {}).get("format") not in (None, "dense"):
            problems.append("sparse weights")
        if (config.get("transform_config") or {}).get("config_groups"):
            problems.append("rotations at run time (transform_config)")
        if not groups and not reads_cache(config):
            problems.append("no config_groups with weights")
        expected = (
            "integers of 2 to 8 bits, per tensor, channel or group; activations in 8 bits, dynamic "
            "per token or static per tensor"
        )
        refuse("compressed-tensors", problems, expected)

    def summary(self, config: Mapping[str, Any]) -> str:
        """Return what each group of layers has, and the cache."""
        told = [_group_summary(group) for group in groups_with_weights(config)]
        cache = config.get("kv_cache_scheme") or {}
        told += [f"cache in {cache['num_bits']} bits"] if cache.get("num_bits") else []
        return f"compressed-tensors, {'; '.join(dict.fromkeys(told))}"

    def disagreements(
        self, layers: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]
    ) -> list[str]:
        """Return nothing: a layer that fits no group is refused when it is decoded."""
        return []

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Return that outputs of layers, and a cache that is not read, stay as they are."""
        outputs = any(group.get("output_activations") for group in groups_with_weights(config))
        return [OUTPUTS] * outputs + cache_notes(config)

    def parts(self, names: Collection[str]) -> dict[str, Part]:
        """Return the parts of quantized layers."""
        found = parts_with(names, PARTS)
        packed = {part.module for part in found.values() if part.name == "weight_packed"}
        for module in {part.module for part in found.values()} - packed:
            if f"{module}.weight" in names:
                found[f"{module}.weight"] = Part(module, "weight")
        modules = {part.module for part in found.values()}
        inputs = parts_with(names, INPUTS.values())
        return found | {name: part for name, part in inputs.items() if part.module in modules}

    def decode(self, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> IntegerGrid:
        """Return the weight of one layer."""
        if "weight" in parts:
            codes, scales = require(parts, "weight", "weight_scale")
            bits, points = 8, parts.get("weight_zero_point")
            if codes.dtype != torch.int8:
                raise QuantizationError(f"has a weight of {codes.dtype}; expected int8")
        else:
            packed, scales, shape = require(parts, "weight_packed", "weight_scale", "weight_shape")
            outputs, inputs = (int(size) for size in shape)
            bits = _bits(packed.shape[1], inputs, config)
            codes, points = unpack_either(packed, bits, inputs), parts.get("weight_zero_point")
            if points is not None:
                points = unpack_either(points.t(), bits, outputs).t().contiguous()
        outputs, inputs = codes.shape
        scales = scales.reshape(-1, scales.shape[-1] if scales.ndim == 2 else 1)
        groups = _groups_of_inputs(parts.get("weight_g_idx"), inputs, scales.shape[1], config)
        scales = scales.expand(outputs, -1).contiguous()
        if points is not None:
            points = points.reshape(-1, scales.shape[1]).expand(outputs, -1).to(torch.int8)
            points = points.contiguous() if bool(points.any()) else None
        return IntegerGrid(codes, scales, points, bits, groups)

    def fits(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> bool:
        """Return whether the weight is on a grid as a group of the config tells, in one form."""
        return isinstance(weight, IntegerGrid) and len(_forms(weight, config)) == 1

    def encode(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of one layer."""
        assert isinstance(weight, IntegerGrid)
        points = weight.zero_points
        if _forms(weight, config) - {PACKED}:
            parts = {"weight": weight.codes, "weight_scale": weight.scales.contiguous()}
            return parts if points is None else {**parts, "weight_zero_point": points}
        parts = {
            "weight_packed": pack_stream(weight.codes, weight.bits),
            "weight_scale": weight.scales.contiguous(),
            "weight_shape": torch.tensor(weight.codes.shape),
        }
        if points is not None:
            parts["weight_zero_point"] = pack_stream(points.t(), weight.bits).t().contiguous()
        if weight.groups is not None:
            parts["weight_g_idx"] = weight.groups.to(torch.int32)
        return parts

    def inputs(
        self, module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]
    ) -> InputRounding | None:
        """Return how the inputs of one layer are rounded."""
        return read_inputs(module, parts, config)

    def fits_inputs(
        self, module: str, inputs: InputRounding | None, config: Mapping[str, Any]
    ) -> bool:
        """Return whether the group of a layer tells of this rounding."""
        return inputs_fit(module, inputs, config)

    def encode_inputs(self, inputs: InputRounding | None) -> dict[str, Tensor]:
        """Return scale and zero point, where they are not found as inputs come."""
        tensors = {} if inputs is None else inputs.tensors()
        return {INPUTS[name]: tensor.clone() for name, tensor in tensors.items()}

    def kept(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config without what is not kept: scales of outputs; saving tells the cache."""
        groups = {
            name: {**group, "output_activations": None}
            for name, group in config["config_groups"].items()
        }
        return {**config, "kv_cache_scheme": None, "config_groups": groups}

    def holds(self, scheme: Scheme) -> bool:
        """Return whether it gives integers, with inputs rounded or not."""
        return scheme.method in ("rtn", "gptq", "awq", "w8a8")

    def config(
        self,
        weights: Mapping[str, QuantizedWeight],
        unquantized: Sequence[str],
        name: str | None = None,
    ) -> dict[str, Any]:
        """Return the `quantization_config`: one group of layers per scheme."""
        return self.config_with_inputs(weights, {}, unquantized)

    def config_with_inputs(
        self,
        weights: Mapping[str, QuantizedWeight],
        inputs: Mapping[str, InputRounding],
        unquantized: Sequence[str],
    ) -> dict[str, Any]:
        """Return the `quantization_config`: one group per scheme of weights and inputs."""
        return written_config(weights, inputs, unquantized)

    def files(self, config: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Return nothing: tools read config.json."""
        return {}


def _group_summary(group: Mapping[str, Any]) -> str:
    """Return weights and activations of a group of layers in words."""
    weights, inputs = group["weights"], group.get("input_activations") or {}
    spans = {"group": f"groups of {weights.get('group_size')}", "channel": "whole rows"}
    told = [
        f"{weights.get('num_bits')} bits",
        spans.get(str(weights.get("strategy")), "whole matrices"),
        "symmetric" if weights.get("symmetric", True) else "with zero points",
    ]
    scales = "a scale for each token" if inputs.get("dynamic") else "one scale"
    told += [f"inputs in {inputs['num_bits']} bits, {scales}"] if inputs.get("num_bits") else []
    return ", ".join(told)


def _format(group: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    return str(group.get("format") or config.get("format"))


def _forms(weight: IntegerGrid, config: Mapping[str, Any]) -> set[str]:
    """Return the forms that groups of such weights are stored in."""
    forms = set()
    for group in groups_with_weights(config):
        told = group["weights"]
        # Plain codes are bytes, however few values they take.
        bits = told["num_bits"] if _format(group, config) == PACKED else torch.int8.itemsize * 8
        zeros = told.get("symmetric", True) == (weight.zero_points is None)
        if bits == weight.bits and zeros and told.get("strategy") != "tensor":
            forms.add(_format(group, config))
    return forms


def _problems(group: Mapping[str, Any], config: Mapping[str, Any]) -> list[str]:
    """Return what in a group of layers is not supported."""
    weights, problems = group["weights"], []
    kind, bits = weights.get("type"), weights.get("num_bits")
    if _format(group, config) not in (PACKED, *PLAIN):
        problems.append(f"format {_format(group, config)!r}")
    if kind != "int" or bits not in range(2, 9):
        problems.append(f"{bits}-bit {kind} weights")
    if weights.get("strategy") not in STRATEGIES:
        problems.append(f"strategy {weights.get('strategy')!r}")
    return problems + activation_problems(group)


def _bits(words: int, inputs: int, config: Mapping[str, Any]) -> int:
    """Return the bits of a layer: those whose packing gives this many words."""
    told = {group["weights"]["num_bits"] for group in groups_with_weights(config)}
    for words_of in (stream_words, field_words):
        for bits in told:
            if words == words_of(inputs, bits):
                return int(bits)
    raise QuantizationError(
        f"has {words} words for {inputs} inputs, which fits none of the bit widths in "
        "quantization_config: it is damaged, or config.json is of another checkpoint"
    )


def _groups_of_inputs(
    g_idx: Tensor | None, inputs: int, num_groups: int, config: Mapping[str, Any]
) -> Tensor | None:
    """Return the group of each input as `IntegerGrid` wants it."""
    if g_idx is None or bool((g_idx < 0).any()):  # -1: not in use
        sizes = {group["weights"].get("group_size") or -1 for group in groups_with_weights(config)}
        fitting = [s for s in sizes if s > 0 and -(-inputs // s) == num_groups]
        g_idx = torch.arange(inputs) // (fitting[0] if fitting else -(-inputs // num_groups))
    if len(g_idx) != inputs or int(g_idx.max()) >= num_groups:
        raise QuantizationError(
            f"has groups of {len(g_idx)} inputs up to {int(g_idx.max())}; "
            f"expected {inputs} numbers below {num_groups}"
        )
    return regular_groups(g_idx, num_groups)


FORMAT = CompressedTensors()

"""compressed-tensors: integers as llm-compressor writes them, and vLLM and transformers read them.

Source: the published files of llm-compressor 0.14. Of a layer X with weight [out, in], packed:
X.weight_packed int32 [out, in / (32 // bits)] along the inputs, lowest bits first, codes +
2^(bits-1); X.weight_scale [out, G]; X.weight_shape int64 [2]; asymmetric also X.weight_zero_point
int32 [out / (32 // bits), G], packed along the outputs; X.weight_g_idx int32 [in], the group of
each input, where columns were quantized by activation. Not packed (W8A8): X.weight int8 [out, in],
X.weight_scale, X.weight_zero_point int8 [out, G].
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.errors import QuantizationError
from danlu.quantize.bits import WORD_BITS, pack, unpack
from danlu.quantize.format import Part, parts_with, refuse, require
from danlu.quantize.grid import IntegerGrid, regular_groups
from danlu.quantize.weight import QuantizedWeight
from danlu.weights.rules import Ignore

VERSION = "0.19.0"
PACKED, PLAIN = "pack-quantized", ("int-quantized", "naive-quantized")
STRATEGIES = ("channel", "group", "tensor")
PARTS = ("weight_packed", "weight_scale", "weight_shape", "weight_zero_point", "weight_g_idx")
ACTIVATIONS = "activations are not quantized here"
CACHE = "keys and values are not quantized here"


class CompressedTensors:
    """The format; see the module docstring."""

    names: Sequence[str] = ("compressed-tensors",)
    ignored: Sequence[Ignore] = (
        *(Ignore(f".{end}", ACTIVATIONS) for end in ("input_scale", "input_zero_point")),
        *(Ignore(f".{end}", ACTIVATIONS) for end in ("output_scale", "output_zero_point")),
        *(Ignore(f".{end}", CACHE) for end in ("q_scale", "k_scale", "v_scale")),
        *(Ignore(f".{end}", CACHE) for end in ("k_zero_point", "v_zero_point")),
    )

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether the config names compressed-tensors."""
        return config.get("quant_method") == "compressed-tensors"

    def check(self, config: Mapping[str, Any]) -> None:
        """Check every group of layers, and what else changes weights."""
        groups = _groups(config)
        problems = [problem for group in groups for problem in _problems(group, config)]
        if (config.get("sparsity_config") or {}).get("format") not in (None, "dense"):
            problems.append("sparse weights")
        if (config.get("transform_config") or {}).get("config_groups"):
            problems.append("rotations at run time (transform_config)")
        if not groups:
            problems.append("no config_groups with weights")
        expected = "integers of 2 to 8 bits, per tensor, channel or group"
        refuse("compressed-tensors", problems, expected)

    def summary(self, config: Mapping[str, Any]) -> str:
        """Return what each group of layers has, and the cache."""
        told = [_group_summary(group) for group in _groups(config)]
        cache = config.get("kv_cache_scheme") or {}
        told += [f"cache in {cache['num_bits']} bits"] if cache.get("num_bits") else []
        return f"compressed-tensors, {'; '.join(dict.fromkeys(told))}"

    def disagreements(
        self, layers: Mapping[str, Mapping[str, Tensor]], config: Mapping[str, Any]
    ) -> list[str]:
        """Return nothing: a layer that fits no group is refused when it is decoded."""
        return []

    def notes(self, config: Mapping[str, Any]) -> list[str]:
        """Return that activations and cache stay as they are."""
        keys = ("input_activations", "output_activations")
        activations = any(group.get(key) for group in _groups(config) for key in keys)
        cache = config.get("kv_cache_scheme")
        return [ACTIVATIONS] * activations + [CACHE] * bool(cache)

    def parts(self, names: Collection[str]) -> dict[str, Part]:
        """Return the parts of quantized layers."""
        found = parts_with(names, PARTS)
        packed = {part.module for part in found.values() if part.name == "weight_packed"}
        for module in {part.module for part in found.values()} - packed:
            if f"{module}.weight" in names:
                found[f"{module}.weight"] = Part(module, "weight")
        return found

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
            codes, points = unpack(packed, bits, inputs), parts.get("weight_zero_point")
            if points is not None:
                points = unpack(points.t(), bits, outputs).t().contiguous()
        outputs, inputs = codes.shape
        scales = scales.reshape(-1, scales.shape[-1] if scales.ndim == 2 else 1)
        groups = _groups_of_inputs(parts.get("weight_g_idx"), inputs, scales.shape[1], config)
        scales = scales.expand(outputs, -1).contiguous()
        if points is not None:
            points = points.reshape(-1, scales.shape[1]).expand(outputs, -1).to(torch.int8)
            points = points.contiguous() if bool(points.any()) else None
        return IntegerGrid(codes, scales, points, bits, groups)

    def fits(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> bool:
        """Return whether the weight is on a grid as all groups of the config tell."""
        if not isinstance(weight, IntegerGrid):
            return False
        kinds = {_format(group, config) == PACKED for group in _groups(config)}
        asymmetric = {not group["weights"]["symmetric"] for group in _groups(config)}
        strategies = {group["weights"]["strategy"] for group in _groups(config)}
        told = (weight.zero_points is not None) in asymmetric and "tensor" not in strategies
        return told and len(kinds) == 1 and len(asymmetric) == 1

    def encode(self, weight: QuantizedWeight, config: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return the tensors of one layer."""
        assert isinstance(weight, IntegerGrid)
        points = weight.zero_points
        if any(_format(group, config) != PACKED for group in _groups(config)):
            parts = {"weight": weight.codes, "weight_scale": weight.scales.contiguous()}
            return parts if points is None else {**parts, "weight_zero_point": points}
        parts = {
            "weight_packed": pack(weight.codes, weight.bits),
            "weight_scale": weight.scales.contiguous(),
            "weight_shape": torch.tensor(weight.codes.shape),
        }
        if points is not None:
            parts["weight_zero_point"] = pack(points.t(), weight.bits).t().contiguous()
        if weight.groups is not None:
            parts["weight_g_idx"] = weight.groups.to(torch.int32)
        return parts

    def kept(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return the config without what is not kept: scales of the cache and of activations."""
        groups = {
            name: {**group, "input_activations": _dynamic(group), "output_activations": None}
            for name, group in config["config_groups"].items()
        }
        return {**config, "kv_cache_scheme": None, "config_groups": groups}

    def config(
        self,
        weights: Mapping[str, QuantizedWeight],
        unquantized: Sequence[str],
        name: str | None = None,
    ) -> dict[str, Any]:
        """Return the `quantization_config`: one group of layers per scheme."""
        by_scheme: dict[tuple[int, int, bool, bool], list[str]] = {}
        for name, weight in weights.items():
            if not isinstance(weight, IntegerGrid):
                raise QuantizationError(
                    f"{name} is no grid of integers, which is all that compressed-tensors holds. "
                    "Quantize all layers with one method, or dequantize them."
                )
            key = (
                weight.bits,
                -1 if weight.whole_rows else weight.group_size,
                weight.zero_points is None,
                weight.groups is not None,
            )
            by_scheme.setdefault(key, []).append(name)
        largest = max(by_scheme, key=lambda key: len(by_scheme[key]))
        groups = {
            f"group_{i}": _group(*key, targets=["Linear"] if key == largest else by_scheme[key])
            for i, key in enumerate(by_scheme)
        }
        return {
            "quant_method": "compressed-tensors",
            "format": PACKED,
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "ignore": list(unquantized),
            "kv_cache_scheme": None,
            "sparsity_config": {},
            "transform_config": {},
            "version": VERSION,
            "config_groups": groups,
        }

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


def _group(
    bits: int, group_size: int, symmetric: bool, reordered: bool, targets: list[str]
) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group_size == -1 else "group",
        "group_size": None if group_size == -1 else group_size,
        "dynamic": False,
        "actorder": "group" if reordered else None,
        "block_structure": None,
        "observer": "memoryless_minmax",
        "observer_kwargs": {},
        "scale_dtype": None,
        "zp_dtype": None if symmetric else "torch.int8",
    }
    return {
        "format": PACKED,
        "targets": targets,
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }


def _groups(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the groups of layers whose weights are quantized."""
    groups = (config.get("config_groups") or {}).values()
    return [group for group in groups if group.get("weights")]


def _format(group: Mapping[str, Any], config: Mapping[str, Any]) -> str:
    return str(group.get("format") or config.get("format"))


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
    return problems


def _dynamic(group: Mapping[str, Any]) -> Any:
    """Return how activations of a group are quantized, if that needs no scales in the file."""
    activations = group.get("input_activations")
    return activations if activations and activations.get("dynamic") else None


def _bits(words: int, inputs: int, config: Mapping[str, Any]) -> int:
    """Return the bits of a layer: those whose packing gives this many words."""
    for bits in {group["weights"]["num_bits"] for group in _groups(config)}:
        if words == -(-inputs // (WORD_BITS // bits)):
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
        sizes = {group["weights"].get("group_size") or -1 for group in _groups(config)}
        fitting = [s for s in sizes if s > 0 and -(-inputs // s) == num_groups]
        g_idx = torch.arange(inputs) // (fitting[0] if fitting else -(-inputs // num_groups))
    if len(g_idx) != inputs or int(g_idx.max()) >= num_groups:
        raise QuantizationError(
            f"has groups of {len(g_idx)} inputs up to {int(g_idx.max())}; "
            f"expected {inputs} numbers below {num_groups}"
        )
    return regular_groups(g_idx, num_groups)


FORMAT = CompressedTensors()

"""compressed-tensors, "pack-quantized": weight-only int4 and int8 as vLLM and transformers read it.

Source: the published files of llm-compressor 0.14. Of a layer X with weight [out, in]:
X.weight_packed int32 [out, in * bits / 32] along the inputs, lowest bits first, codes + 2^(bits-1);
X.weight_scale [out, G]; X.weight_shape int64 [2]; asymmetric also X.weight_zero_point int32
[out * bits / 32, G], packed along the outputs.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from danlu.errors import QuantizationError
from danlu.quantize.weight import QuantizedWeight

VERSION = "0.19.0"


class CompressedTensors:
    """The format; see the module docstring."""

    required: Sequence[str] = ("weight_packed", "weight_scale", "weight_shape")

    def claims(self, config: Mapping[str, Any]) -> bool:
        """Return whether the config names compressed-tensors."""
        return config.get("quant_method") == "compressed-tensors"

    def tensors(self, config: Mapping[str, Any]) -> Sequence[str]:
        """Return the tensor names of a layer."""
        symmetric = all(group["weights"]["symmetric"] for group in _groups(config))
        return self.required if symmetric else [*self.required, "weight_zero_point"]

    def decode(self, parts: Mapping[str, Tensor], config: Mapping[str, Any]) -> QuantizedWeight:
        """Return the weight of one layer."""
        outputs, inputs = (int(size) for size in parts["weight_shape"])
        packed = parts["weight_packed"]
        bits = _bits(packed.shape[1], inputs, _groups(config))
        points = parts.get("weight_zero_point")
        zeros = None if points is None else unpack(points.t(), bits, outputs).t().contiguous()
        return QuantizedWeight(unpack(packed, bits, inputs), parts["weight_scale"], zeros, bits)

    def encode(self, weight: QuantizedWeight) -> dict[str, Tensor]:
        """Return the tensors of one layer."""
        parts = {
            "weight_packed": pack(weight.codes, weight.bits),
            "weight_scale": weight.scales.contiguous(),
            "weight_shape": torch.tensor(weight.codes.shape),
        }
        if weight.zero_points is not None:
            points = pack(weight.zero_points.t(), weight.bits).t().contiguous()
            parts["weight_zero_point"] = points
        return parts

    def config(
        self, weights: Mapping[str, QuantizedWeight], unquantized: Sequence[str]
    ) -> dict[str, Any]:
        """Return the `quantization_config`: one group of layers per scheme."""
        by_scheme: dict[tuple[int, int, bool], list[str]] = {}
        for name, weight in weights.items():
            whole_rows = weight.scales.shape[1] == 1
            key = (weight.bits, -1 if whole_rows else weight.group_size, weight.zero_points is None)
            by_scheme.setdefault(key, []).append(name)
        largest = max(by_scheme, key=lambda key: len(by_scheme[key]))
        groups = {
            f"group_{i}": _group(*key, targets=["Linear"] if key == largest else by_scheme[key])
            for i, key in enumerate(by_scheme)
        }
        return {
            "quant_method": "compressed-tensors",
            "format": "pack-quantized",
            "quantization_status": "compressed",
            "global_compression_ratio": None,
            "ignore": list(unquantized),
            "kv_cache_scheme": None,
            "sparsity_config": {},
            "transform_config": {},
            "version": VERSION,
            "config_groups": groups,
        }


def _group(bits: int, group_size: int, symmetric: bool, targets: list[str]) -> dict[str, Any]:
    weights = {
        "num_bits": bits,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "channel" if group_size == -1 else "group",
        "group_size": None if group_size == -1 else group_size,
        "dynamic": False,
        "actorder": None,
        "block_structure": None,
        "observer": "memoryless_minmax",
        "observer_kwargs": {},
        "scale_dtype": None,
        "zp_dtype": None if symmetric else "torch.int8",
    }
    return {
        "format": "pack-quantized",
        "targets": targets,
        "weights": weights,
        "input_activations": None,
        "output_activations": None,
    }


def _groups(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the groups of layers, or say what in them is not supported."""
    groups = list(config.get("config_groups", {}).values())
    problems = []
    for group in groups:
        weights = group.get("weights") or {}
        if group.get("format", config.get("format")) != "pack-quantized":
            problems.append(f"format {group.get('format', config.get('format'))!r}")
        if group.get("input_activations"):
            problems.append("quantized activations")
        if weights.get("type") != "int" or weights.get("num_bits") not in (4, 8):
            problems.append(f"{weights.get('num_bits')}-bit {weights.get('type')} weights")
        if weights.get("strategy") not in ("channel", "group"):
            problems.append(f"strategy {weights.get('strategy')!r}")
    if config.get("kv_cache_scheme"):
        problems.append("a quantized key/value cache")
    if problems or not groups:
        raise QuantizationError(
            "This compressed-tensors checkpoint uses what is not read yet: "
            f"{', '.join(sorted(set(problems))) or 'no config_groups'}. "
            "Expected pack-quantized int4 or int8 weights, per channel or group."
        )
    return groups


def _bits(words: int, inputs: int, groups: Sequence[Mapping[str, Any]]) -> int:
    """Return the bits of a layer: those whose packing gives this many words."""
    for bits in {group["weights"]["num_bits"] for group in groups}:
        if words == -(-inputs * bits // 32):
            return int(bits)
    raise QuantizationError(
        f"A packed weight has {words} words for {inputs} inputs, which fits none of the bit widths "
        "in quantization_config. The checkpoint is damaged or its config.json is of another one."
    )


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return signed codes [rows, n] as int32 words [rows, ceil(n * bits / 32)], low bits first."""
    per_word = 32 // bits
    unsigned = codes.to(torch.int64) + 2 ** (bits - 1)
    padding = -unsigned.shape[1] % per_word
    fields = torch.nn.functional.pad(unsigned, (0, padding)).unflatten(1, (-1, per_word))
    shifts = torch.arange(per_word, device=codes.device) * bits
    words: Tensor = (fields << shifts).sum(-1).to(torch.int32)
    return words


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Return the int8 codes [rows, count] of int32 words; the inverse of `pack`."""
    shifts = torch.arange(32 // bits, device=words.device, dtype=torch.int32) * bits
    fields = (words[..., None] >> shifts) & (2**bits - 1)
    codes: Tensor = (fields.flatten(1)[:, :count] - 2 ** (bits - 1)).to(torch.int8)
    return codes


FORMAT = CompressedTensors()

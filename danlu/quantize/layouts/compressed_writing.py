"""The config of compressed-tensors for layers that were quantized here: groups of equal schemes.

Source: the configs that llm-compressor 0.14 writes.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from danlu.errors import QuantizationError
from danlu.quantize.activations import DynamicPerToken, InputRounding, StaticPerTensor
from danlu.quantize.grid import IntegerGrid
from danlu.quantize.layouts.compressed_groups import BITS
from danlu.quantize.weight import QuantizedWeight

VERSION = "0.19.0"
MIXED = "mixed-precision"  # the groups tell
PACKED, PLAIN = "pack-quantized", ("int-quantized", "naive-quantized")


def written_config(
    weights: Mapping[str, QuantizedWeight],
    inputs: Mapping[str, InputRounding],
    unquantized: Sequence[str],
) -> dict[str, Any]:
    """Return the `quantization_config`: one group of layers per scheme of weights and inputs.

    Weights in 8 bits whose inputs are rounded are not packed, as kernels want them.

    Args:
        weights: by published name of the layer.
        inputs: of the layers that round their inputs.
        unquantized: linear layers left as they are.

    Raises:
        QuantizationError: if a weight is no grid, or the format has no such rounding.
    """
    groups: list[dict[str, Any]] = []
    members: list[list[str]] = []
    plain = {_kind(weight) for name, weight in weights.items() if name in inputs}
    for name, weight in weights.items():
        group = _group(name, weight, inputs.get(name), packed=_kind(weight) not in plain)
        if group not in groups:
            groups.append(group)
            members.append([])
        members[groups.index(group)].append(name)
    largest = max(members, key=len)
    for group, names in zip(groups, members, strict=True):
        group["targets"] = ["Linear"] if names is largest else names
    forms = {group["format"] for group in groups}
    return {
        "quant_method": "compressed-tensors",
        "format": forms.pop() if len(forms) == 1 else MIXED,
        "quantization_status": "compressed",
        "global_compression_ratio": None,
        "ignore": list(unquantized),
        "kv_cache_scheme": None,
        "sparsity_config": {},
        "transform_config": {},
        "version": VERSION,
        "config_groups": {f"group_{i}": group for i, group in enumerate(groups)},
    }


class _Kind(NamedTuple):
    """What decides the form that weights are written in."""

    bits: int
    group_size: int
    symmetric: bool


def _kind(weight: QuantizedWeight) -> _Kind | None:
    if not isinstance(weight, IntegerGrid):
        return None
    size = -1 if weight.whole_rows else weight.group_size
    return _Kind(weight.bits, size, weight.zero_points is None)


def _group(
    name: str, weight: QuantizedWeight, inputs: InputRounding | None, packed: bool
) -> dict[str, Any]:
    """Return the group that a layer is in; its targets are not known yet."""
    kind = _kind(weight)
    if kind is None or not isinstance(weight, IntegerGrid):
        raise QuantizationError(
            f"{name} is no grid of integers, which is all that compressed-tensors holds. "
            "Quantize all layers with one method, or dequantize them."
        )
    weights = {
        "num_bits": kind.bits,
        "type": "int",
        "symmetric": kind.symmetric,
        "strategy": "channel" if kind.group_size == -1 else "group",
        "group_size": None if kind.group_size == -1 else kind.group_size,
        "dynamic": False,
        "actorder": "group" if weight.groups is not None else None,
        "block_structure": None,
        "observer": "memoryless_minmax",
        "observer_kwargs": {},
        "scale_dtype": None,
        "zp_dtype": None if kind.symmetric else "torch.int8",
    }
    return {
        "format": PACKED if packed or kind.bits != BITS else PLAIN[0],
        "targets": [],
        "weights": weights,
        "input_activations": _written_inputs(inputs),
        "output_activations": None,
    }


def _written_inputs(inputs: InputRounding | None) -> dict[str, Any] | None:
    """Return the `input_activations` of a group of layers.

    Raises:
        QuantizationError: if compressed-tensors has no such rounding.
    """
    if inputs is None:
        return None
    if not isinstance(inputs, DynamicPerToken | StaticPerTensor):
        raise QuantizationError(
            f"compressed-tensors has no inputs in {inputs.summary}; bitsandbytes may have."
        )
    dynamic = isinstance(inputs, DynamicPerToken)
    symmetric = "zero_point" not in inputs.tensors()
    if isinstance(inputs, DynamicPerToken):
        symmetric = inputs.symmetric
    return {
        "num_bits": BITS,
        "type": "int",
        "symmetric": symmetric,
        "strategy": "token" if dynamic else "tensor",
        "group_size": None,
        "dynamic": dynamic,
        "actorder": None,
        "block_structure": None,
        "observer": None if dynamic else "static_minmax",
        "observer_kwargs": {},
        "scale_dtype": None,
        "zp_dtype": None if symmetric else "torch.int8",
    }

"""Groups of layers in a config of compressed-tensors: whom they mean, and what enters them.

Source: compressed-tensors 0.19: a target is the name of a module, an expression after "re:", or a
class of modules, of which the linear layers are "Linear"; the most precise one decides.
"""

import re
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from danlu.errors import QuantizationError
from danlu.quantize.activations import DynamicPerToken, InputRounding, StaticPerTensor
from danlu.quantize.format import require

EXPRESSION = "re:"
BITS = 8


def groups_with_weights(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return the groups of layers whose weights are quantized."""
    groups = (config.get("config_groups") or {}).values()
    return [group for group in groups if group.get("weights")]


def activation_problems(group: Mapping[str, Any]) -> list[str]:
    """Return what about the inputs of a group of layers is not supported."""
    told = group.get("input_activations")
    if not told:
        return []
    problems = []
    kind, bits = told.get("type", "int"), told.get("num_bits", BITS)
    dynamic, strategy = told.get("dynamic"), told.get("strategy") or "tensor"
    if (kind, bits) != ("int", BITS):
        problems.append(f"{bits}-bit {kind} activations")
    if (dynamic, strategy) not in ((True, "token"), (False, "tensor"), (None, "tensor")):
        when = "local" if dynamic == "local" else "dynamic" if dynamic else "static"
        problems.append(f"{when} activations of the strategy {strategy!r}")
    return problems


def read_inputs(
    module: str, parts: Mapping[str, Tensor], config: Mapping[str, Any]
) -> InputRounding | None:
    """Return how the inputs of a layer are rounded; None: not at all.

    Args:
        module: published name of the layer.
        parts: its tensors.
        config: the `quantization_config`.

    Raises:
        QuantizationError: if no group tells, or its scale is missing or no single number.
    """
    told = told_inputs(module, config)
    if told is None:
        return None
    symmetric = bool(told.get("symmetric", True))
    if told.get("dynamic"):
        return DynamicPerToken(symmetric)
    scale, zero = require(parts, "input_scale")[0], parts.get("input_zero_point")
    if not symmetric:
        require(parts, "input_zero_point")
    if scale.numel() != 1 or (zero is not None and zero.numel() != 1):
        raise QuantizationError(f"has an input_scale of {list(scale.shape)}; expected one number")
    return StaticPerTensor(scale.reshape(1), None if zero is None else zero.reshape(1))


def told_inputs(module: str, config: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """Return what the config tells about the inputs of a layer."""
    groups = groups_with_weights(config)
    all_told: list[Mapping[str, Any] | None] = []
    for group in groups:
        told = group.get("input_activations") or None
        if told not in all_told:
            all_told.append(told)
    if len(all_told) == 1:
        return all_told[0]
    meant = [(_precision(target, module), group) for group in groups for target in _targets(group)]
    found = max((rank for rank, _ in meant), default=0)
    if not found:
        raise QuantizationError(
            "is meant by no target in quantization_config, though its weight is quantized"
        )
    group = next(group for rank, group in meant if rank == found)
    return group.get("input_activations") or None


def _targets(group: Mapping[str, Any]) -> list[str]:
    return [str(target) for target in group.get("targets") or []]


def _precision(target: str, module: str) -> int:
    """Return how precisely a target means a linear layer; 0: it does not."""
    if target == module:
        return 3
    if target.startswith(EXPRESSION):
        return 2 if re.match(target.removeprefix(EXPRESSION), module) else 0
    return 1 if target == "Linear" else 0


def inputs_fit(module: str, inputs: InputRounding | None, config: Mapping[str, Any]) -> bool:
    """Return whether a config tells of this rounding for a layer."""
    told = told_inputs(module, config)
    if told is None or inputs is None:
        return told is None and inputs is None
    if isinstance(inputs, DynamicPerToken):
        return bool(told.get("dynamic")) and inputs.symmetric == bool(told.get("symmetric", True))
    if not isinstance(inputs, StaticPerTensor) or told.get("dynamic"):
        return False
    if told.get("symmetric", True):
        return inputs.zero_point is None or not bool(inputs.zero_point.any())
    return inputs.zero_point is not None

"""LoRA of PEFT on mixtures of experts: its `target_parameters` become updates of each expert.

Source: `ParamWrapper` of peft 0.21.2. All experts of a layer share one file tensor: A [E * r, in]
holds the experts one after the other, B [out, r * E] deals out each rank to the experts in turn.
The outer of two nested updates has no `base_layer` in its key, the inner one has. A router's update
is added to its weight, as routers are no linear layers here.
"""

import re
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from danlu.adapters.peft.low_rank import scale_of
from danlu.adapters.peft.reading import Reading, from_pattern
from danlu.adapters.peft.tensors import Parts
from danlu.adapters.wrapping import Replacement, plain_parameter

_EXPERTS = re.compile(r"(?P<prefix>.+\.experts)(?:\.base_layer)*")
_HALVES = ("gate_proj", "up_proj")


def spread_experts(reading: Reading, parts: Parts) -> None:
    """Put updates of single experts and routers where `parts` has those of all experts at once."""
    for name, tensors in list(parts.modules.items()):
        if tensors.keys() != {"lora_A", "lora_B"}:
            continue
        found = _EXPERTS.fullmatch(name)
        if found and _num_experts(reading, found["prefix"]):
            del parts.modules[name]
            parts.modules |= _of_experts(reading, found["prefix"], tensors)
        elif _is_router(reading, name):
            del parts.modules[name]
            _add_to_router(reading, name, tensors)


def _num_experts(reading: Reading, prefix: str) -> int:
    found = re.compile(rf"{re.escape(prefix)}\.(\d+)\.down_proj\.weight")
    return sum(found.fullmatch(name) is not None for name in reading.entries)


def _of_experts(
    reading: Reading, prefix: str, tensors: Mapping[str, Tensor]
) -> dict[str, dict[str, Tensor]]:
    """Return the updates of the single experts by published module."""
    count = _num_experts(reading, prefix)
    width, hidden = reading.entries[f"{prefix}.0.gate_proj.weight"].shape
    inputs, outputs = tensors["lora_A"].shape[1], tensors["lora_B"].shape[0]
    rank, rest = divmod(tensors["lora_A"].shape[0], count)
    fits = rest == 0 and tensors["lora_B"].shape[1] == rank * count
    if not fits or (inputs, outputs) not in ((hidden, 2 * width), (width, hidden)):
        reading.problems.append(
            f"{prefix} has updates {list(tensors['lora_A'].shape)} and "
            f"{list(tensors['lora_B'].shape)}, which do not fit {count} experts of "
            f"[{width}, {hidden}]"
        )
        return {}
    leaves = ("down_proj",) if inputs == width and outputs == hidden else _HALVES
    whole = f"{prefix}.{'gate_up_proj' if leaves == _HALVES else 'down_proj'}"
    A_ERI = tensors["lora_A"].unflatten(0, (count, rank))
    B_ORE = tensors["lora_B"].unflatten(1, (rank, count))
    spread = {}
    for expert in range(count):
        for leaf, part in zip(leaves, B_ORE[..., expert].chunk(len(leaves)), strict=True):
            name = f"{prefix}.{expert}.{leaf}"
            factor = _scale(reading, whole, rank) / scale_of(name, rank, reading.source.config)
            spread[name] = {"lora_A": A_ERI[expert].contiguous(), "lora_B": part * factor}
    return spread


def _scale(reading: Reading, name: str, rank: int) -> float:
    """Return the scale of an update of a parameter, by the patterns that name the parameter."""
    config = reading.source.config
    alpha = float(from_pattern(name, config.get("alpha_pattern"), config["lora_alpha"]))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _is_router(reading: Reading, name: str) -> bool:
    linears = dict(reading.model.linears())
    entry = reading.entries.get(f"{name}.weight")
    return (
        name.endswith(".gate")
        and entry is not None
        and entry.ours[0].removesuffix(".weight") not in linears
    )


@torch.no_grad()
def _add_to_router(reading: Reading, name: str, tensors: Mapping[str, Tensor]) -> None:
    entry = reading.entries[f"{name}.weight"]
    base = plain_parameter(reading.model, entry.ours[0])
    lora_A, lora_B = tensors["lora_A"].float(), tensors["lora_B"].float()
    if base is None or (lora_B.shape[0], lora_A.shape[1]) != tuple(entry.shape):
        reading.problems.append(f"{name} has an update that does not fit {list(entry.shape)}")
        return
    change = (lora_B @ lora_A * _scale(reading, name, len(lora_A))).to(base.device)
    adapted = (base.float() + change).to(base.dtype)
    reading.replacements.append(Replacement(entry.ours[0], nn.Parameter(adapted)))

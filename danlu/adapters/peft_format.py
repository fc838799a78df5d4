"""LoRA adapters in PEFT's format: `adapter_config.json` and `adapter_model.safetensors`.

Source: files written by peft 0.21.2. Keys are `base_model.model.` + the published module path +
`.lora_A.weight` [rank, in] or `.lora_B.weight` [out, rank]. Where a published layer holds several
of ours (a fused query_key_value), they share A on reading; on writing, their ranks are stacked.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.adapters.lora import LoRALinear
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.errors import AdapterError, bullet_list, did_you_mean
from danlu.nn.linear import HasLinears
from danlu.weights.files import WeightFile
from danlu.weights.rules import Entry

KEY_PREFIX = "base_model.model."

# Options that change the mathematics and are not read yet, with the value that means "off".
_UNSUPPORTED = (
    "use_dora",
    "use_qalora",
    "use_bdlora",
    "lora_bias",
    "fan_in_fan_out",
    "modules_to_save",
    "layer_replication",
    "alora_invocation_tokens",
    "trainable_token_indices",
    "arrow_config",
    "kasa_config",
    "velora_config",
    "monteclora_config",
)


@dataclass(frozen=True)
class LowRank:
    """The update of one published layer: B A * scale."""

    lora_A: Tensor
    lora_B: Tensor
    scale: float


def write_updates(
    adapted: Mapping[str, LoRALinear], entries: Mapping[str, Entry]
) -> AdapterContent:
    """Return what a folder with these adapted layers holds.

    Raises:
        AdapterError: if the layers of one fused tensor differ.
    """
    updates = {}
    for name, entry in entries.items():
        owners = [ours.removesuffix(".weight") for ours in entry.ours]
        if name.endswith(".weight") and any(owner in adapted for owner in owners):
            updates[name.removesuffix(".weight")] = _published_update(entry, owners, adapted)
    tensors = {}
    for name, update in updates.items():
        tensors[f"{KEY_PREFIX}{name}.lora_A.weight"] = update.lora_A
        tensors[f"{KEY_PREFIX}{name}.lora_B.weight"] = update.lora_B
    dropout = next(iter(adapted.values())).dropout
    return AdapterContent(_config(updates, dropout), tensors)


def _published_update(
    entry: Entry, owners: list[str], adapted: Mapping[str, LoRALinear]
) -> LowRank:
    missing = [owner for owner in owners if owner not in adapted]
    if missing:
        raise AdapterError(
            f"{entry.published} holds {', '.join(owners)}, but {', '.join(missing)} has none. "
            "Expected adapters on all of them or none, as the published layer is one."
        )
    layers = [adapted[owner] for owner in owners]
    if len(layers) == 1:
        return LowRank(layers[0].lora_A, layers[0].lora_B, layers[0].scale)
    ranks = [layer.lora_A.shape[0] for layer in layers]
    columns = [
        torch.nn.functional.pad(
            layer.lora_B * (layer.scale / layers[0].scale),
            (sum(ranks[:i]), sum(ranks[i + 1 :])),
        )
        for i, layer in enumerate(layers)
    ]
    stacked_A = torch.cat([layer.lora_A for layer in layers])
    return LowRank(stacked_A, entry.arrangement.rows.join(columns), layers[0].scale)


def _config(updates: Mapping[str, LowRank], dropout: float) -> dict[str, Any]:
    ranks = {name: update.lora_A.shape[0] for name, update in updates.items()}
    alphas = {name: update.scale * ranks[name] for name, update in updates.items()}
    rank, alpha = next(iter(ranks.values())), next(iter(alphas.values()))
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": dropout,
        "target_modules": sorted(updates),
        "rank_pattern": {re.escape(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {re.escape(name): a for name, a in alphas.items() if a != alpha},
        "bias": "none",
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "use_rslora": False,
        "use_dora": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "revision": None,
    }


@torch.no_grad()
def read_updates(
    model: HasLinears, source: AdapterSource, entries: Mapping[str, Entry]
) -> dict[str, LoRALinear]:
    """Return the adapted layers of a folder by name.

    Raises:
        AdapterError: with everything in the folder that does not fit the base.
    """
    config = source.config
    _check_options(config, source.folder / "adapter_config.json")
    updates, problems = _read_updates(source.weights, config)
    linears = dict(model.linears())
    placed: dict[str, LoRALinear] = {}
    for name, update in updates.items():
        entry = entries.get(f"{name}.weight")
        if entry is None:
            known = [published.removesuffix(".weight") for published in entries]
            problems.append(f"{name} is no layer of the base.{did_you_mean(name, known)}")
        elif problem := _misfit(name, update, entry):
            problems.append(problem)
        else:
            placed |= _wrap(entry, update, linears, float(config.get("lora_dropout") or 0.0))
    if problems:
        raise AdapterError(
            f"The adapter in '{source.folder}' does not fit this base:{bullet_list(problems)}\n"
            f"It was made for {config.get('base_model_name_or_path')!r}; load it on that base."
        )
    return placed


def _wrap(
    entry: Entry, update: LowRank, linears: Mapping[str, Any], dropout: float
) -> dict[str, LoRALinear]:
    """Return our adapted layers for one published layer."""
    parts = [update.lora_B]
    if len(entry.ours) > 1:
        parts = entry.arrangement.rows.split(update.lora_B, entry.shapes)
    wrapped = {}
    for ours, lora_B in zip(entry.ours, parts, strict=True):
        owner = ours.removesuffix(".weight")
        base = linears[owner]
        device = base.dense_weight().device
        lora_A = update.lora_A.float().to(device)
        wrapped[owner] = LoRALinear(
            base, lora_A, lora_B.float().contiguous().to(device), update.scale, dropout
        )
    return wrapped


def _misfit(name: str, update: LowRank, entry: Entry) -> str | None:
    outputs, inputs = entry.arrangement.rows.fused_shape(entry.shapes)
    if update.lora_A.shape[1] != inputs or update.lora_B.shape[0] != outputs:
        return (
            f"{name} adapts a [{update.lora_B.shape[0]}, {update.lora_A.shape[1]}] weight; "
            f"the base has [{outputs}, {inputs}]"
        )
    return None


def _check_options(config: Mapping[str, Any], path: Path) -> None:
    active = [f"{key}: {config[key]!r}" for key in _UNSUPPORTED if config.get(key)]
    if config.get("bias", "none") != "none":
        active.append(f"bias: {config['bias']!r}")
    if active:
        raise AdapterError(
            f"'{path}' uses options that are not read yet:{bullet_list(active)}\n"
            "Merge the adapter with the tool that made it, and load the merged model."
        )


def _read_updates(
    file: WeightFile, config: Mapping[str, Any]
) -> tuple[dict[str, LowRank], list[str]]:
    """Return the updates by published module name, and what could not be understood."""
    halves: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key in file.names():
        found = re.fullmatch(
            r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight", key
        )
        if found:
            halves.setdefault(found[1], {})[found[2]] = file.read(key).clone()
        else:
            problems.append(f"{key} is not part of a LoRA adapter on linear layers")
    updates = {}
    for name, half in halves.items():
        if half.keys() != {"A", "B"} or half["A"].shape[0] != half["B"].shape[1]:
            problems.append(f"{name}: A and B do not belong together")
        else:
            updates[name] = LowRank(half["A"], half["B"], _scale(name, half["A"].shape[0], config))
    return updates, problems


def _scale(name: str, rank: int, config: Mapping[str, Any]) -> float:
    alpha = float(_from_pattern(name, config.get("alpha_pattern"), config["lora_alpha"]))
    return alpha / (rank**0.5 if config.get("use_rslora") else rank)


def _from_pattern(name: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """Return the value of the first pattern that the end of `name` matches (peft's rule)."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default

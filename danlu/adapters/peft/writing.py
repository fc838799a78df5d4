"""A LoRA adapter as PEFT writes it, readable by peft 0.21."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from danlu.adapters.attached import Adaptable
from danlu.adapters.lora.low_rank import LoRALinear
from danlu.adapters.lora.low_rank_embedding import DoRAEmbedding, LoRAEmbedding
from danlu.adapters.method import AdapterContent
from danlu.adapters.peft.published_updates import UPDATES, LowRank, published_updates
from danlu.adapters.peft.rows import published_module, published_rows
from danlu.adapters.peft.tensors import KEY_PREFIX
from danlu.adapters.targets import EMBEDDING
from danlu.adapters.whole import WholeLinear, base_tensor
from danlu.adapters.wrapping import Wrapping
from danlu.config.adapter import LoraConfig
from danlu.weights.rules import Entry, Transposed


@torch.no_grad()
def write_lora(
    model: Adaptable, attached: Wrapping, entries: Mapping[str, Entry]
) -> AdapterContent:
    """Return what a folder with the updates and all that was trained beside them holds."""
    linears = dict(model.linears())
    updates = published_updates(attached.of_kind(LoRALinear), linears, entries)
    tensors = {k: t for name, update in updates.items() for k, t in update.tensors(name).items()}
    embedding = _embedding(attached, entries)
    tensors |= embedding[1]
    rows, indices = published_rows(attached, entries, "token_adapter.")
    replaced = published_replacements(model, attached, entries)
    biases = {name: t for name, t in replaced.items() if name.endswith(".bias")}
    whole, bias = _whole_and_bias(attached, biases, replaced, updates)
    for name, tensor in biases.items():
        module = name.removesuffix(".bias")
        at_base = module in updates and module not in whole
        tensors[f"{module}.base_layer.bias" if at_base else name] = tensor
    tensors |= {name: t for name, t in replaced.items() if name not in biases}
    config = _config(attached, {**updates, **embedding[0]}) | {
        "bias": bias,
        "fan_in_fan_out": any(_is_turned(entries.get(f"{name}.weight")) for name in updates),
        "modules_to_save": whole or None,
        "trainable_token_indices": indices or None,
    }
    found = {f"{KEY_PREFIX}{key}": tensor for key, tensor in {**tensors, **rows}.items()}
    records = {name: update.record for name, update in updates.items() if update.record}
    return AdapterContent(config, found, {UPDATES: records} if records else {})


def _is_turned(entry: Entry | None) -> bool:
    return entry is not None and isinstance(entry.arrangement, Transposed)


def _embedding(
    attached: Wrapping, entries: Mapping[str, Entry]
) -> tuple[dict[str, LowRank], dict[str, Tensor]]:
    """Return the update of the embedding by its published module, and its tensors."""
    layer = attached.of_kind(LoRAEmbedding).get(EMBEDDING)
    if layer is None:
        return {}, {}
    module = published_module(entries, EMBEDDING)
    tensors = {
        f"{module}.lora_embedding_A": layer.lora_A.detach(),
        f"{module}.lora_embedding_B": layer.lora_B.detach(),
    }
    if isinstance(layer, DoRAEmbedding):
        tensors[f"{module}.lora_magnitude_vector"] = layer.magnitude.detach()
    return {module: LowRank(layer.lora_A, layer.lora_B, layer.scale)}, tensors


def published_replacements(
    model: Adaptable, attached: Wrapping, entries: Mapping[str, Entry]
) -> dict[str, Tensor]:
    """Return the published tensors with a trained parameter; the rest of each is the base's."""
    trained = {r.name: r.trained.detach() for r in attached.replacements}
    trained |= {f"{n}.weight": w.weight.detach() for n, w in attached.of_kind(WholeLinear).items()}
    found = {}
    for name, entry in entries.items():
        if any(ours in trained for ours in entry.ours):
            state = {n: trained[n] if n in trained else base_tensor(model, n) for n in entry.ours}
            found[name] = entry.save(state)
    return found


def _whole_and_bias(
    attached: Wrapping,
    biases: Iterable[str],
    replaced: Mapping[str, Tensor],
    updates: Mapping[str, LowRank],
) -> tuple[list[str], str]:
    """Return PEFT's `modules_to_save` and `bias` for what was trained beside the updates."""
    weights = [name.rpartition(".")[0] for name in replaced if name.endswith(".weight")]
    plain = [name.removesuffix(".bias") for name in biases]
    alone = [module for module in plain if module not in weights]
    if not alone:
        return weights, "none"
    of_targets = all(module in updates for module in alone)
    return weights, "lora_only" if of_targets else "all"


def _config(attached: Wrapping, updates: Mapping[str, LowRank]) -> dict[str, Any]:
    config = attached.config
    assert isinstance(config, LoraConfig)
    ranks = {name: update.rank for name, update in updates.items()}
    alphas = {name: _number(update.scale * ranks[name]) for name, update in updates.items()}
    rank = next(iter(ranks.values()), config.lora_rank)
    alpha = next(iter(alphas.values()), config.lora_alpha)
    linears = attached.of_kind(LoRALinear).values()
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": next((layer.dropout for layer in linears), config.lora_dropout),
        "target_modules": sorted(updates),
        "rank_pattern": {re.escape(name): r for name, r in ranks.items() if r != rank},
        "alpha_pattern": {re.escape(name): a for name, a in alphas.items() if a != alpha},
        "use_rslora": False,
        "use_dora": any(update.magnitude is not None for update in updates.values())
        or bool(attached.of_kind(DoRAEmbedding)),
        "inference_mode": True,
        "init_lora_weights": True,
        "layers_to_transform": None,
        "layers_pattern": None,
        "revision": None,
    }


def _number(alpha: float) -> float:
    """Return an alpha without the last digits that dividing by the rank left."""
    rounded = round(alpha, 9)
    return int(rounded) if rounded == int(rounded) else rounded

"""The keys of a PEFT `adapter_config.json`: used, of no consequence here, or refused.

Source: the configs of peft 0.3 to 0.21.2 (`LoraConfig`, `IA3Config`, `TrainableTokensConfig`).
"""

from collections.abc import Mapping
from typing import Any

from danlu.errors import did_you_mean

# Keys that change nothing here, with the reason.
IGNORED: Mapping[str, str] = {
    "peft_type": "chose this reader",
    "peft_version": "for the reader's information",
    "task_type": "for the reader's information",
    "base_model_name_or_path": "for the reader's information",
    "auto_mapping": "names classes of the tool that wrote it",
    "revision": "of the base",
    "inference_mode": "whether it is trained is told when it is loaded",
    "fan_in_fan_out": "how the base stores a weight, which its family knows",
    "target_modules": "the tensors tell what is adapted; none of a kind may be missing",
    "feedforward_modules": "the tensors tell whose inputs are scaled",
    "target_parameters": "the tensors tell which experts and routers are adapted",
    "exclude_modules": "the tensors tell what is adapted",
    "layers_to_transform": "the tensors tell what is adapted",
    "layers_pattern": "the tensors tell what is adapted",
    "modules_to_save": "the tensors tell which modules were trained whole",
    "bias": "the tensors tell which biases were trained",
    "init_ia3_weights": "how training began",
    "init_weights": "how training began",
    "loftq_config": "how training began",
    "eva_config": "how training began",
    "corda_config": "how training began",
    "lora_ga_config": "how training began",
    "megatron_config": "for layers of another library",
    "megatron_core": "for layers of another library",
    "qalora_group_size": "counts only with use_qalora",
    "runtime_config": "how another tool computes",
    "merge_weights": "how an early version of the tool computed",
    "ensure_weight_tying": "read with the tensors of embedding and head",
}
# Options that change the mathematics in ways that are not computed here.
REFUSED: Mapping[str, str] = {
    "use_qalora": "it pools inputs by groups",
    "use_bdlora": "its matrices are block-diagonal",
    "lora_bias": "it adds a bias to B",
    "layer_replication": "it repeats layers of the base",
    "alora_invocation_tokens": "it acts behind certain tokens only",
    "arrow_config": "it chooses among adapters for each token",
    "kasa_config": "it changes the base's singular values",
    "velora_config": "it compresses what it is trained on",
    "monteclora_config": "it draws its weights",
    "enable_lora": "it adapts parts of a fused layer",
}
LORA_KEYS = (
    "r",
    "lora_alpha",
    "lora_dropout",
    "rank_pattern",
    "alpha_pattern",
    "use_rslora",
    "use_dora",
    "init_lora_weights",
    "trainable_token_indices",
)
# Beginnings that took a part off the base: with it the update alone says nothing.
STARTS_KNOWN = ("pissa", "olora")
STARTS_UNKNOWN: Mapping[str, str] = {
    "corda": "it took a part off the base that depends on data",
    "lora_ga": "it took a part off the base that depends on data",
    "loftq": "it changed the base to a rounded one",
    "mica": "it keeps B as it was drawn",
}


def key_problems(config: Mapping[str, Any], used: tuple[str, ...]) -> list[str]:
    """Return what is wrong with the keys of an adapter's config.

    A key that nobody knows is let pass where it is off (null, false or empty).
    """
    known = [*used, *IGNORED, *REFUSED]
    problems = []
    for key, value in config.items():
        if key in REFUSED and value:
            problems.append(f"{key}: {value!r} is not computed here: {REFUSED[key]}")
        elif key not in known and value:
            problems.append(f"{key}: {value!r} is no known key.{did_you_mean(key, known)}")
    return problems


def lora_problems(config: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with the config of a LoRA adapter."""
    problems = key_problems(config, LORA_KEYS)
    problems += _type_problems(config)
    start = str(config.get("init_lora_weights", True)).lower()
    for name, reason in STARTS_UNKNOWN.items():
        if start.startswith(name):
            problems.append(
                f"init_lora_weights: {config['init_lora_weights']!r}: {reason}. Save it converted "
                "to plain LoRA (path_initial_model_for_weight_conversion)"
            )
    if "_niter_" in start:
        problems.append(
            f"init_lora_weights: {config['init_lora_weights']!r}: what a randomised decomposition "
            "took off the base cannot be found again. Save it converted to plain LoRA "
            "(path_initial_model_for_weight_conversion)"
        )
    if config.get("use_dora") and start in STARTS_KNOWN:
        problems.append(f"use_dora with init_lora_weights: {start!r} is not computed here")
    return problems


def _type_problems(config: Mapping[str, Any]) -> list[str]:
    problems = []
    for key, least in (("r", 1), ("lora_alpha", 0), ("lora_dropout", 0)):
        value = config.get(key, 0.0 if key == "lora_dropout" else None)
        if isinstance(value, bool) or not isinstance(value, int | float) or value < least:
            problems.append(f"{key}: {value!r}; expected a number, at least {least}")
    for key in ("rank_pattern", "alpha_pattern"):
        patterns = config.get(key) or {}
        if not isinstance(patterns, dict) or not all(
            isinstance(value, int | float) and value > 0 for value in patterns.values()
        ):
            problems.append(f"{key}: {patterns!r}; expected positive numbers by name")
    return problems

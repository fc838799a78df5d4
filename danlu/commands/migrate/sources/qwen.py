"""Qwen: `finetune.py`, and the five scripts around it.

Source: QwenLM/Qwen, `finetune.py` and `finetune/*.sh`.
"""

from collections.abc import Mapping
from typing import Any

from danlu.commands.migrate import lora_flags
from danlu.commands.migrate.draft import Draft, Rule, becomes, is_off, needs_nothing
from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.source import Migration, Source, apply_rules
from danlu.commands.migrate.trainer import COMPLETE_RULES, DEFAULTS, finish

_DEFAULTS: Mapping[str, Any] = {
    **DEFAULTS,
    "model_max_length": 8192,
    "lora_r": 64,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": ["c_attn", "c_proj", "w1", "w2"],
}
_SHARED: Mapping[str, Any] = {
    "model_name_or_path": "Qwen/Qwen-7B",
    "data_path": "path_to_data",
    "bf16": True,
    "output_dir": "output_qwen",
    "num_train_epochs": 5,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 8,
    "save_steps": 1000,
    "save_total_limit": 10,
    "learning_rate": 3e-4,
    "weight_decay": 0.1,
    "adam_beta2": 0.95,
    "warmup_ratio": 0.01,
    "lr_scheduler_type": "cosine",
    "logging_steps": 1,
    "model_max_length": 512,
    "gradient_checkpointing": True,
}
_FULL = {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16, "learning_rate": 1e-5}
_LORA = {"use_lora": True}
_QLORA = {
    "use_lora": True,
    "q_lora": True,
    "bf16": False,
    "fp16": True,
    "model_name_or_path": "Qwen/Qwen-7B-Chat-Int4",
}
_SCRIPTS: Mapping[str, Mapping[str, Any]] = {
    "finetune_ds.sh": {**_SHARED, **_FULL},
    "finetune_lora_single_gpu.sh": {**_SHARED, **_LORA},
    "finetune_lora_ds.sh": {**_SHARED, **_LORA},
    "finetune_qlora_single_gpu.sh": {**_SHARED, **_QLORA},
    "finetune_qlora_ds.sh": {**_SHARED, **_QLORA},
}
_SHORT = {
    "m": "model_name_or_path",
    "model": "model_name_or_path",
    "d": "data_path",
    "data": "data_path",
}
_NEW_TOKENS = (
    "The old script trained the whole embedding and head of a base model with LoRA, to teach it "
    "the chat's control tokens. `adapter.whole` does the same; `adapter.token_rows: control` "
    "instead of it trains only the rows of these tokens, in a fraction of the memory."
)
_QUANTIZED_BASE = (
    "The Int4 checkpoint is opened as it is; merge with `danlu merge`, which adds the adapter to "
    "the very weights it was trained on."
)


def _claims(old: OldCommand) -> bool:
    is_own = old.script_name == "finetune.py" and "model_dir" not in old.arguments
    return is_own or old.script_name in _SCRIPTS


def _translate(old: OldCommand) -> Migration:
    given = {_SHORT.get(flag, flag): value for flag, value in old.arguments.items()}
    arguments = {**_DEFAULTS, **_SCRIPTS.get(old.script_name, {}), **given}
    with_lora = not is_off(arguments.get("use_lora"))
    if not with_lora:
        arguments = {k: v for k, v in arguments.items() if k in given or k not in lora_flags.RULES}
    draft = Draft()
    apply_rules(draft, _RULES, arguments)
    finish(draft, arguments, old.devices or 1)
    notes = _base_of_lora(draft, arguments) if with_lora else _every_weight(draft)
    return Migration("Qwen", "danlu finetune RUN.yaml", draft, notes)


def _base_of_lora(draft: Draft, arguments: Mapping[str, Any]) -> tuple[str, ...]:
    """Set what `finetune.py` decided by the name of the model."""
    if not is_off(arguments.get("q_lora")):
        return (_QUANTIZED_BASE,)
    if "chat" in str(arguments.get("model_name_or_path", "")).lower():
        return ()
    draft.set("adapter.whole", ["wte", "lm_head"], "finetune.py, for the new tokens of a base")
    return (_NEW_TOKENS,)


def _every_weight(draft: Draft) -> tuple[str, ...]:
    draft.set("adapter", None, "without --use_lora")
    return ()


_RULES: Mapping[str, Rule] = {
    **COMPLETE_RULES,
    **lora_flags.RULES,
    "data_path": becomes("data.instructions"),
    "eval_data_path": becomes("data.held_out"),
    "model_max_length": becomes("data.max_seq_len", int),
    "use_lora": needs_nothing("the section `adapter` says it"),
    "q_lora": needs_nothing("a quantized checkpoint says so itself"),
}
SOURCE = Source("Qwen", _claims, _translate)

"""Aquila2: `finetune.py`, and its scripts for 7B and 34B.

Source: FlagAI-Open/Aquila2, `finetune/finetune.py` and `finetune/{7B,34B}/*.sh`.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from danlu.commands.migrate import lora_flags
from danlu.commands.migrate.draft import (
    Draft,
    Rule,
    becomes,
    has_no_counterpart,
    is_off,
    needs_nothing,
)
from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.source import Migration, Source, apply_rules
from danlu.commands.migrate.trainer import COMPLETE_RULES, DEFAULTS, finish

_DEFAULTS: Mapping[str, Any] = {
    **DEFAULTS,
    "model_dir": "./checkpoints",
    "model_name": "aquila2chat-hf",
    "model_max_length": 512,
    "convo_template": "aquila",
    "lora_r": 8,
    "lora_alpha": 16,
    "lora_dropout": 0.05,
    "lora_target_modules": ["q_proj", "v_proj"],
}
_SHARED: Mapping[str, Any] = {
    "data_path": "path_to_data",
    "convo_template": "aquila-v1",
    "fp16": True,
    "model_max_length": 2048,
    "output_dir": "output/checkpoints",
    "num_train_epochs": 5,
    "per_device_train_batch_size": 4,
    "save_strategy": "epoch",
    "save_total_limit": 10,
    "learning_rate": 9.65e-6,
    "weight_decay": 0.1,
    "warmup_ratio": 0.1,
    "logging_steps": 1,
    "gradient_checkpointing": True,
}
_SCRIPTS: Mapping[str, Mapping[str, Any]] = {
    "finetune.sh": {},
    "finetune_lora.sh": {"use_lora": True},
    "finetune_qlora.sh": {"use_lora": True, "q_lora": True},
    "finetune_qlora_single_node.sh": {"use_lora": True, "q_lora": True},
}
_EIGHT = (
    "The old script ran on the machines of a hostfile, 8 devices each: its global batch was this "
    "one times their number."
)


def _claims(old: OldCommand) -> bool:
    return old.script_name in _SCRIPTS or {"model_dir", "convo_template"} <= old.arguments.keys()


def _translate(old: OldCommand) -> Migration:
    script = _SCRIPTS.get(old.script_name)
    presets = {} if script is None else {**_SHARED, **_size_of(old), **script}
    arguments = {**_DEFAULTS, **presets, **old.arguments}
    folder = PurePosixPath(str(arguments.pop("model_dir"))) / str(arguments.pop("model_name"))
    with_lora = not is_off(arguments.get("use_lora"))
    if not with_lora:
        arguments = {
            k: v for k, v in arguments.items() if k in old.arguments or k not in lora_flags.RULES
        }
    draft = Draft()
    draft.set("model", str(folder), "--model_dir, --model_name")
    apply_rules(draft, _RULES, arguments)
    finish(draft, arguments, old.devices or 1)
    if not with_lora:
        draft.set("adapter", None, "without --use_lora")
    return Migration("Aquila2", "danlu finetune RUN.yaml", draft, (_EIGHT,) if script else ())


def _size_of(old: OldCommand) -> dict[str, str]:
    """Return the model that a script's folder, 7B or 34B, meant."""
    size = "34b" if "34B" in old.script.split("/") else "7b"
    return {"model_name": f"aquilachat2-{size}"}


def _q_lora(draft: Draft, flag: str, value: Any) -> None:
    if not is_off(value):
        draft.set("quantize", "nf4", "--q_lora: NF4, double quantization")


_RULES: Mapping[str, Rule] = {
    **COMPLETE_RULES,
    **lora_flags.RULES,
    "data_path": becomes("data.instructions"),
    "eval_data_path": becomes("data.held_out"),
    "model_max_length": becomes("data.max_seq_len", int),
    "convo_template": becomes("data.chat_format"),
    "use_lora": needs_nothing("the section `adapter` says it"),
    "q_lora": _q_lora,
    "use_single_node": has_no_counterpart("a model is not spread over the devices of a machine"),
    "use_sequential_init": needs_nothing("a model is opened tensor by tensor"),
}
SOURCE = Source("Aquila2", _claims, _translate)

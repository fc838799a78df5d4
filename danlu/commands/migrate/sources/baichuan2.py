"""Baichuan 2: `fine-tune.py`.

Source: baichuan-inc/Baichuan2, README and `fine-tune/fine-tune.py`, whose LoRA is written in code.
"""

from collections.abc import Mapping
from typing import Any

from danlu.commands.migrate.draft import Draft, Rule, becomes, is_off, needs_nothing
from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.source import Migration, Source, apply_rules
from danlu.commands.migrate.trainer import COMPLETE_RULES, DEFAULTS, finish

_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "model_max_length": 512}
_LORA: Mapping[str, Any] = {
    "lora_rank": 1,
    "lora_alpha": 32.0,
    "lora_dropout": 0.1,
    "targets": ["W_pack"],
}
_RANK = (
    "The old script's LoRA has rank 1 on W_pack alone, which users found too small to learn much; "
    "try adapter.lora_rank=8 adapter.targets=all-linear."
)


def _claims(old: OldCommand) -> bool:
    return old.script_name == "fine-tune.py"


def _translate(old: OldCommand) -> Migration:
    arguments = {**_DEFAULTS, **old.arguments}
    draft = Draft()
    apply_rules(draft, _RULES, arguments)
    finish(draft, arguments, old.devices or 1)
    if is_off(arguments.get("use_lora")):
        draft.set("adapter", None, "without --use_lora")
        return Migration("Baichuan 2", "danlu finetune RUN.yaml", draft)
    for key, value in _LORA.items():
        draft.set(f"adapter.{key}", value, "written in fine-tune.py")
    return Migration("Baichuan 2", "danlu finetune RUN.yaml", draft, (_RANK,))


_RULES: Mapping[str, Rule] = {
    **COMPLETE_RULES,
    "data_path": becomes("data.instructions"),
    "model_max_length": becomes("data.max_seq_len", int),
    "use_lora": needs_nothing("the section `adapter` says it"),
}
SOURCE = Source("Baichuan 2", _claims, _translate)

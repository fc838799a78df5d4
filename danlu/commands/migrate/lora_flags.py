"""The flags of LoRA that the scripts around peft share."""

from collections.abc import Mapping
from typing import Any

from danlu.commands.migrate.draft import Draft, Rule, shown


def _to(key: str, kind: type) -> Rule:
    def apply(draft: Draft, flag: str, value: Any) -> None:
        draft.set(f"adapter.{key}", kind(value), shown(flag, value))

    return apply


def _targets(draft: Draft, flag: str, value: Any) -> None:
    names = value if isinstance(value, list) else [str(value)]
    draft.set("adapter.targets", list(names), shown(flag, " ".join(map(str, names))))


def _weight_path(draft: Draft, flag: str, value: Any) -> None:
    if value and value is not True:
        draft.set("warm_start", str(value), shown(flag, value))


RULES: Mapping[str, Rule] = {
    "lora_r": _to("lora_rank", int),
    "lora_rank": _to("lora_rank", int),
    "lora_alpha": _to("lora_alpha", float),
    "lora_dropout": _to("lora_dropout", float),
    "lora_target_modules": _targets,
    "lora_bias": _to("bias", str),
    "lora_weight_path": _weight_path,
    "lora_path": _weight_path,
}

"""Qwen: `run_gptq.py`, and the work by hand that followed it.

Source: QwenLM/Qwen, `run_gptq.py`, and its README, section "Quantize Fine-tuned Models".
"""

from collections.abc import Mapping

from danlu.commands.migrate.draft import Draft, Rule, becomes
from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.source import Migration, Source, apply_rules

_DEFAULTS = {"max_len": 8192, "bits": 4, "group-size": 128}
_NOTES = (
    "The folder is complete: no code, generation_config.json or config.json is to be copied, and "
    "no file to be renamed.",
    "With `export: transformers` the result is a Qwen2, which vLLM and transformers open.",
)


def _claims(old: OldCommand) -> bool:
    return old.script_name == "run_gptq.py"


def _translate(old: OldCommand) -> Migration:
    draft = Draft()
    draft.set("scheme.method", "gptq", "run_gptq.py")
    apply_rules(draft, _RULES, {**_DEFAULTS, **old.arguments})
    draft.set_default("model", "MODEL", "no model was given")
    draft.set_default("out", "runs/quantized", "no folder was given")
    draft.set("scheme.damping", 0.01, "damp_percent in run_gptq.py")
    draft.set("scheme.symmetric", True, "sym in run_gptq.py")
    draft.set("scheme.act_order", False, "desc_act in run_gptq.py")
    return Migration("Qwen", "danlu quantize RUN.yaml", draft, _NOTES)


_RULES: Mapping[str, Rule] = {
    "model_name_or_path": becomes("model"),
    "data_path": becomes("calibration.sources"),
    "out_path": becomes("out"),
    "max_len": becomes("calibration.max_tokens", int),
    "bits": becomes("scheme.bits", int),
    "group-size": becomes("scheme.group_size", int),
    "group_size": becomes("scheme.group_size", int),
}
SOURCE = Source("Qwen's quantization", _claims, _translate)

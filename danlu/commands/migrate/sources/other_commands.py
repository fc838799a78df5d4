"""Commands that take no run file: merging, generating, chatting."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from danlu.commands.migrate.draft import is_off
from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.source import Migration, Source

Arguments = Mapping[str, Any]
FIXED_SCALES = (
    "Fixed scales of keys and values come from calibration text: put kv_cache: {scales: head} into "
    "a run file of `danlu quantize`; the folder then keeps them."
)


def _model(arguments: Arguments) -> str:
    names = ("model_name_or_path", "checkpoint_path", "c", "checkpoint-path")
    found = next((arguments[name] for name in names if name in arguments), "MODEL")
    return shlex.quote(str(found))


def _merge(arguments: Arguments) -> tuple[str, tuple[str, ...]]:
    adapter = shlex.quote(str(arguments.get("lora_path", "ADAPTER")))
    out = shlex.quote(str(arguments.get("merge_model_path") or "runs/merged"))
    return f"danlu merge {_model(arguments)} {adapter} {out}", ()


def _predict(arguments: Arguments) -> tuple[str, tuple[str, ...]]:
    adapter = arguments.get("lora_path") or arguments.get("prefix_path")
    flag = f" --adapter {shlex.quote(str(adapter))}" if adapter else ""
    cache, notes = _cache(arguments)
    if "data_file" in arguments:
        file = "Answers for a whole file: `danlu eval` writes them beside the expected ones."
        notes = (file, *notes)
    return f"danlu generate {_model(arguments)} --prompt TEXT{flag}{cache}", notes


def _chat(arguments: Arguments) -> tuple[str, tuple[str, ...]]:
    cache, notes = _cache(arguments)
    return f"danlu chat {_model(arguments)}{cache}", notes


def _cache(arguments: Arguments) -> tuple[str, tuple[str, ...]]:
    """Return the flag for keys and values in 8 bits: Qwen's switch, or PaddleNLP's kind."""
    kind = arguments.get("cachekv_int8_type")
    if is_off(arguments.get("use_cache_quantization")) and is_off(kind):
        return "", ()
    return " --kv-cache int8", (FIXED_SCALES,) if kind == "static" else ()


_COMMANDS: Mapping[str, tuple[str, Callable[[Arguments], tuple[str, tuple[str, ...]]]]] = {
    "merge_lora_params.py": ("PaddleNLP", _merge),
    "predictor.py": ("PaddleNLP", _predict),
    "cli_demo.py": ("Qwen or Baichuan 2", _chat),
}


def _claims(old: OldCommand) -> bool:
    return old.script_name in _COMMANDS


def _translate(old: OldCommand) -> Migration:
    project, make = _COMMANDS[old.script_name]
    command, notes = make(old.arguments)
    return Migration(project, command, notes=notes)


SOURCE = Source("merging, generating, chatting", _claims, _translate)

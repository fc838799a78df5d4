"""Commands that take no run file: merging, generating, chatting."""

import shlex
from collections.abc import Callable, Mapping
from typing import Any

from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.source import Migration, Source

Arguments = Mapping[str, Any]


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
    notes: tuple[str, ...] = ()
    if "data_file" in arguments:
        notes = ("Answers for a whole file: `danlu eval` writes them beside the expected ones.",)
    return f"danlu generate {_model(arguments)} --prompt TEXT{flag}", notes


def _chat(arguments: Arguments) -> tuple[str, tuple[str, ...]]:
    return f"danlu chat {_model(arguments)}", ()


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

"""PaddleNLP: `finetune_generation.py` (later `run_finetune.py`) of its llm folder.

Source: PaddlePaddle/PaddleNLP 2.6, `llm/argument.py`, `llm/llama/*_argument.json`.
"""

from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from danlu.commands.migrate.argument_file import read_arguments
from danlu.commands.migrate.draft import (
    Draft,
    Rule,
    becomes,
    has_no_counterpart,
    is_off,
    needs_nothing,
    shown,
)
from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.ptq import migrate_quantization
from danlu.commands.migrate.source import Migration, Source, apply_rules
from danlu.commands.migrate.trainer import COMPLETE_RULES, DEFAULTS, finish
from danlu.errors import ConfigError

_SCRIPTS = ("finetune_generation.py", "run_finetune.py")
_KEYS = {"dataset_name_or_path", "src_length", "prefix_tuning", "zero_padding", "intokens"}
_DEFAULTS: Mapping[str, Any] = {**DEFAULTS, "src_length": 1024, "max_length": 2048}
_QUANTIZING_SHARED: Mapping[str, Any] = {
    "dataset_name_or_path": "./data",
    "per_device_train_batch_size": 8,
    "src_length": 1024,
    "max_length": 2048,
    "fp16": True,
}
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "sft_argument.json": {"learning_rate": 3e-5, "zero_padding": True},
    "sft_pp_argument.json": {"learning_rate": 3e-5, "zero_padding": True},
    "lora_argument.json": {"learning_rate": 3e-4, "lora": True},
    "pt_argument.json": {"learning_rate": 3e-2, "prefix_tuning": True},
    "ptq_argument.json": {
        **_QUANTIZING_SHARED,
        "do_ptq": True,
        "ptq_step": 16,
        "smooth": True,
        "smooth_step": 16,
        "smooth_all_linears": True,
        "smooth_piecewise_search": True,
        "smooth_k_piece": 3,
        "smooth_search_piece": True,
    },
    "gptq_argument.json": {**_QUANTIZING_SHARED, "do_gptq": True, "gptq_step": 8},
}
_QUANTIZING = ("ptq_argument.json", "gptq_argument.json")
_PUBLISHED_SHARED: Mapping[str, Any] = {
    "dataset_name_or_path": "./data",
    "per_device_train_batch_size": 4,
    "gradient_accumulation_steps": 4,
    "num_train_epochs": 3,
    "warmup_steps": 30,
    "logging_steps": 1,
    "save_strategy": "epoch",
    "fp16": True,
    "load_best_model_at_end": True,
    "metric_for_best_model": "accuracy",
    "recompute": True,
    "save_total_limit": 1,
}
_QUANTIZED = {"nf4": "nf4", "fp4": "fp4", "weight_only_int8": "int8", "weight_only_int4": "int4"}
_NOT_HERE = (
    "The file of arguments is not in this folder; these are the values that PaddleNLP published "
    "under that name. Run it again beside your own file for yours."
)


def _claims(old: OldCommand) -> bool:
    return old.script_name in _SCRIPTS or (not old.script and bool(_KEYS & old.arguments.keys()))


def _translate(old: OldCommand) -> Migration:
    given, notes = _given(old)
    if any(not is_off(given.get(mode)) for mode in ("do_ptq", "do_gptq", "do_qat")):
        return migrate_quantization(given, _RULES, notes)
    arguments = {**_DEFAULTS, **given}
    draft = Draft()
    apply_rules(draft, _RULES, arguments)
    _data(draft, str(arguments.get("dataset_name_or_path", "./data")))
    finish(draft, arguments, _replicas(old, arguments))
    if not is_off(arguments.get("lora")):
        rank = int(arguments.get("lora_rank", 8))
        draft.set("adapter.lora_rank", rank, shown("lora_rank", rank))
        draft.set("adapter.lora_alpha", 2.0 * rank, "lora_alpha of that project: 2 x rank")
    elif is_off(arguments.get("prefix_tuning")):
        draft.set("adapter", None, "without lora and prefix_tuning")
    return Migration("PaddleNLP", "danlu finetune RUN.yaml", draft, notes)


def _given(old: OldCommand) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the arguments of the file and those typed behind it."""
    files = [word for word in old.positional if word.endswith(".json")]
    if not files:
        return dict(old.arguments), ()
    path = Path(files[0])
    if path.is_file():
        return {**read_arguments(path), **old.arguments}, ()
    if path.name not in _PUBLISHED:
        return {**read_arguments(path), **old.arguments}, ()
    model = PurePosixPath(files[0]).parent.name or "MODEL"
    method = path.name.split("_")[0]
    own = {"model_name_or_path": model, "output_dir": f"./checkpoints/{model}_{method}_ckpts"}
    shared = {} if path.name in _QUANTIZING else _PUBLISHED_SHARED
    published = {**shared, **own, **_PUBLISHED[path.name]}
    return {**published, **old.arguments}, (_NOT_HERE,)


def _data(draft: Draft, name: str) -> None:
    origin = shown("dataset_name_or_path", name)
    draft.set("data.instructions", {"path": name, "split": "train"}, origin)
    draft.set("data.held_out", {"path": name, "split": "dev"}, origin)


def _replicas(old: OldCommand, arguments: Mapping[str, Any]) -> int:
    """Return how many copies of the model saw different rows."""
    parts = 1
    for flag in ("tensor_parallel_degree", "pipeline_parallel_degree"):
        parts *= max(1, int(arguments.get(flag) or 1))
    return max(1, (old.devices or 1) // parts)


def _prefix(draft: Draft, flag: str, value: Any) -> None:
    if not is_off(value):
        draft.set("adapter.method", "prefix", shown(flag, value))
        draft.values["adapter"].setdefault("num_tokens", 128)


def _packing(draft: Draft, flag: str, value: Any) -> None:
    draft.set("data.batching", "padded" if is_off(value) else "packed", shown(flag, value))


def _quantize(draft: Draft, flag: str, value: Any) -> None:
    if str(value) not in _QUANTIZED:
        raise ConfigError(
            f"--{flag} is {value!r}; expected one of {', '.join(_QUANTIZED)}. Correct it."
        )
    draft.set("quantize", _QUANTIZED[str(value)], shown(flag, value))


def _noise(draft: Draft, flag: str, value: Any) -> None:
    if not is_off(value):
        draft.values.setdefault("train", {}).setdefault("neftune_alpha", 5.0)
        draft.origins.setdefault("train.neftune_alpha", shown(flag, value))


def _alpha(draft: Draft, flag: str, value: Any) -> None:
    if "neftune_alpha" in draft.values.get("train", {}):
        draft.set("train.neftune_alpha", float(value), shown(flag, value))


_HUB = has_no_counterpart("nothing is uploaded; use the hub's own tool")
_PARALLEL = needs_nothing("runs on one device, with the same global batch")
_RULES: Mapping[str, Rule] = {
    **COMPLETE_RULES,
    "max_length": becomes("data.max_seq_len", int),
    "src_length": becomes("data.max_prompt_tokens", int),
    "chat_template": becomes("data.chat_format"),
    "dataset_name_or_path": needs_nothing("becomes data.instructions and data.held_out"),
    "task_name": has_no_counterpart("a data set is a file, a folder or hub:owner/name"),
    "lora": needs_nothing("the section `adapter` says it"),
    "lora_rank": needs_nothing("becomes adapter.lora_rank"),
    "lora_path": becomes("warm_start"),
    "rslora": becomes("adapter.rank_stabilized", lambda on: not is_off(on)),
    "lora_plus_scale": becomes("adapter.learning_rate_ratio", float),
    "pissa": becomes("adapter.init", lambda on: "default" if is_off(on) else "pissa"),
    "prefix_tuning": _prefix,
    "num_prefix_tokens": becomes("adapter.num_tokens", int),
    "intokens": _packing,
    "zero_padding": _packing,
    "neftune": _noise,
    "neftune_noise_alpha": _alpha,
    "weight_quantize_algo": _quantize,
    "weight_blocksize": needs_nothing("nf4 and fp4 share a scale among 64 weights"),
    "weight_double_quant": needs_nothing("nf4 and fp4 round their scales, too"),
    "weight_double_quant_block_size": needs_nothing("256, as here"),
    "eval_with_do_generation": has_no_counterpart(
        "give the section `evaluation`; `danlu init --kind sft` shows it"
    ),
    "save_generation_output": needs_nothing("generated answers are always written"),
    "top_k": needs_nothing("answers in evaluation are greedy, which top_k 1 was"),
    "top_p": needs_nothing("answers in evaluation are greedy, which top_k 1 was"),
    "use_sparse_mask": needs_nothing("packed rows never look at their neighbours"),
    "tensor_parallel_degree": _PARALLEL,
    "tensor_parallel_output": _PARALLEL,
    "pipeline_parallel_degree": _PARALLEL,
    "sharding_parallel_degree": _PARALLEL,
    "sharding": _PARALLEL,
    "pipeline_parallel_config": _PARALLEL,
    "virtual_pp_degree": _PARALLEL,
    "do_predict": has_no_counterpart("`danlu generate` answers; `danlu eval` measures"),
    **dict.fromkeys(
        (
            "from_aistudio",
            "save_to_aistudio",
            "aistudio_repo_id",
            "aistudio_repo_private",
            "aistudio_repo_license",
            "aistudio_token",
        ),
        _HUB,
    ),
}
SOURCE = Source("PaddleNLP", _claims, _translate)

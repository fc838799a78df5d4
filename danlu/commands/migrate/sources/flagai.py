"""FlagAI: the YAML files of AquilaChat, and the script that starts them in containers.

Source: FlagAI-Open/FlagAI, `examples/Aquila/Aquila-chat/*.yaml` and `aquila_chat.py`.
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
)
from danlu.commands.migrate.lora_flags import RULES as LORA_RULES
from danlu.commands.migrate.old_command import OldCommand
from danlu.commands.migrate.source import Migration, Source, apply_rules
from danlu.errors import ConfigError

_TRIGGERS = ("dist_trigger_docker.sh", "local_trigger_docker.sh", "bmtrain_mgpu.sh")
_KEYS = {"enable_sft_dataset_dir", "enable_sft_dataset_file", "bmt_pre_load", "bmt_cpu_offload"}
_DEFAULTS: Mapping[str, Any] = {
    "batch_size": 1,
    "gradient_accumulation_steps": 1,
    "lr": 2e-4,
    "weight_decay": 1e-3,
    "epochs": 100,
    "log_interval": 10,
    "save_interval": 5000,
    "fp16": True,
    "warm_up": 0.01,
    "bmt_lr_decay_style": "cosine",
}
_LORA_DEFAULTS: Mapping[str, Any] = {
    "lora_r": 8,
    "lora_alpha": 32,
    "lora_dropout": 0.1,
    "lora_target_modules": ["wq", "wv"],
}
_MAX_SEQ_LEN = 2048
_TOGETHER = ("batch_size", "gradient_accumulation_steps", "warm_up", "warm_up_iters", "lora")


def _claims(old: OldCommand) -> bool:
    return old.script_name in _TRIGGERS or bool(_KEYS & old.arguments.keys())


def _translate(old: OldCommand) -> Migration:
    given, model = _given(old)
    arguments = {**_DEFAULTS, **given}
    draft = Draft()
    draft.set("out", "checkpoints_out", "where the containers wrote")
    draft.set("model", model, "MODEL of the script, in checkpoints_in")
    draft.set("data.batching", "padded", "a row each, as before; packed is faster")
    draft.set("data.long", "truncate", "long rows were cut before, too")
    draft.set("data.max_seq_len", _MAX_SEQ_LEN, "written in aquila_chat.py")
    with_lora = not is_off(arguments.get("lora"))
    if with_lora:
        arguments = {**_LORA_DEFAULTS, **arguments}
    folder = PurePosixPath(str(arguments.pop("enable_sft_dataset_dir", "data")))
    file = str(arguments.pop("enable_sft_dataset_file", "sft_samples.jsonl"))
    draft.set("data.instructions", str(folder / file), "enable_sft_dataset_dir and _file")
    apply_rules(draft, _RULES, arguments)
    _finish(draft, arguments, old.devices or 1)
    if not with_lora:
        draft.set("adapter", None, "lora: False")
    return Migration("FlagAI", "danlu finetune RUN.yaml", draft)


def _given(old: OldCommand) -> tuple[dict[str, Any], str]:
    """Return the arguments of the YAML file, and the folder of the model."""
    if not old.script:
        return dict(old.arguments), "checkpoints_in/aquilachat-7b"
    files = [word for word in old.positional if word.endswith((".yaml", ".yml"))]
    if not files:
        raise ConfigError(
            f"{old.script_name} was given no .yaml file; expected: hostfile CONFIG.yaml MODEL "
            "EXPERIMENT. Add the file, or give its path alone: danlu migrate CONFIG.yaml."
        )
    after = old.positional[old.positional.index(files[0]) + 1 :]
    model = after[0] if after else "aquilachat-7b"
    return {**read_arguments(Path(files[0])), **old.arguments}, f"checkpoints_in/{model}"


def _finish(draft: Draft, arguments: Mapping[str, Any], replicas: int) -> None:
    micro = int(arguments["batch_size"])
    total = micro * int(arguments["gradient_accumulation_steps"]) * replicas
    draft.set("train.micro_batch_size", micro, "batch_size")
    draft.set("train.global_batch_size", total, "batch_size x gradient_accumulation_steps")
    if not is_off(arguments.get("warm_up_iters")):
        draft.set("train.warmup_steps", int(arguments["warm_up_iters"]), "warm_up_iters")
    else:
        draft.set("train.warmup_ratio", float(arguments["warm_up"]), "warm_up")


def _together(draft: Draft, flag: str, value: Any) -> None:
    """Leave a flag to `_finish`."""


def _fp16(draft: Draft, flag: str, value: Any) -> None:
    if not is_off(value):
        draft.set("train.precision", "fp16", "fp16")


_SAVED = "a checkpoint always holds optimizer and random state"
_CONTAINERS = "belongs to the containers of that project"
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_TOGETHER, _together),
    **LORA_RULES,
    "lr": becomes("train.learning_rate", float),
    "epochs": becomes("train.epochs", float),
    "weight_decay": becomes("train.weight_decay", float),
    "eps": becomes("train.eps", float),
    "clip_grad": becomes("train.max_grad_norm", float),
    "seed": becomes("seed", int),
    "save_interval": becomes("train.save_every_steps", int),
    "eval_interval": becomes("train.eval_every_steps", int),
    "log_interval": becomes("train.log_every_steps", int),
    "bmt_lr_decay_style": becomes("train.schedule"),
    "fp16": _fp16,
    "checkpoint_activations": becomes(
        "train.activation_checkpointing", lambda on: "none" if is_off(on) else "full"
    ),
    "save_optim": needs_nothing(_SAVED),
    "save_rng": needs_nothing(_SAVED),
    "load_optim": needs_nothing("the same command goes on where it stopped"),
    "load_rng": needs_nothing("the same command goes on where it stopped"),
    "load_type": needs_nothing("the same command goes on where it stopped"),
    "bmt_pre_load": needs_nothing("the model's weights are always opened"),
    "bmt_async_load": needs_nothing("a model is opened tensor by tensor"),
    "bmt_loss_scale": needs_nothing("fp16 scales the loss by itself"),
    "bmt_loss_scale_steps": needs_nothing("fp16 scales the loss by itself"),
    "bmt_cpu_offload": has_no_counterpart("weights stay on the device they are trained on"),
    "enable_flash_attn_models": needs_nothing("the fastest attention of the machine is taken"),
    "enable_sft_conversations_dataset_v3": needs_nothing("rows are known by what they contain"),
    "shuffle_dataset": needs_nothing("rows are shuffled by the seed"),
    "wandb": has_no_counterpart("metrics.jsonl, loss.png and run.json hold what it would show"),
    "tensorboard": has_no_counterpart("metrics.jsonl, loss.png and run.json hold what it shows"),
    "env_type": needs_nothing(_CONTAINERS),
    "num_gpus": needs_nothing(_CONTAINERS),
    "num_nodes": needs_nothing(_CONTAINERS),
    "master_ip": needs_nothing(_CONTAINERS),
    "master_port": needs_nothing(_CONTAINERS),
    "skip_iters": needs_nothing("the same command goes on where it stopped"),
}
SOURCE = Source("FlagAI", _claims, _translate)

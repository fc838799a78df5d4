"""Flags of the usual trainer, which four of the five projects share; its defaults are kept.

Source: `TrainingArguments` of transformers 4.29 and of PaddleNLP 2.6. A flag that was not given
had a default there, and the new run has to do the same, so these defaults are written out.
"""

from collections.abc import Mapping
from typing import Any

from danlu.commands.migrate.draft import (
    Draft,
    Rule,
    becomes,
    has_no_counterpart,
    is_off,
    needs_nothing,
    shown,
)

DEFAULTS: Mapping[str, Any] = {
    "num_train_epochs": 3,
    "per_device_train_batch_size": 8,
    "gradient_accumulation_steps": 1,
    "learning_rate": 5e-5,
    "lr_scheduler_type": "linear",
    "weight_decay": 0.0,
    "adam_beta1": 0.9,
    "adam_beta2": 0.999,
    "adam_epsilon": 1e-8,
    "max_grad_norm": 1.0,
    "warmup_ratio": 0.0,
    "warmup_steps": 0,
    "save_steps": 500,
    "seed": 42,
}
SCHEDULES = {
    "linear": ("linear", 0.0),
    "cosine": ("cosine", 0.0),
    "constant": ("constant", None),
    "constant_with_warmup": ("constant", None),
    "cosine_with_min_lr": ("cosine", 0.1),
    "warmup_stable_decay": ("wsd", 0.0),
}
OPTIMIZERS: Mapping[str, str] = {
    "adamw_torch": "adamw",
    "adamw_torch_fused": "adamw",
    "adamw_hf": "adamw",
    "adamw": "adamw",
    "adamw_8bit": "adamw8bit",
    "adamw_bnb_8bit": "adamw8bit",
    "paged_adamw_8bit": "adamw8bit",
    "paged_adamw_32bit": "adamw",
    "adafactor": "adafactor",
    "sgd": "sgd",
}
_ALREADY = "every run does this, or does not need it"
_TRACKERS = "a run writes metrics.jsonl, loss.png and run.json; no account is needed"
_SEVERAL = "runs on one device; rows of other devices are micro-batches of the same global batch"


def _together(draft: Draft, flag: str, value: Any) -> None:
    """Leave a flag to `finish`."""


def _schedule(draft: Draft, flag: str, value: Any) -> None:
    known = SCHEDULES.get(str(value))
    if known is None:
        draft.missing[shown(flag, value)] = f"schedules are {', '.join(SCHEDULES)}; cosine is used"
        known = ("cosine", 0.0)
    name, floor = known
    draft.set("train.schedule", name, shown(flag, value))
    if floor is not None:
        draft.set("train.min_lr_ratio", floor, f"the old {name} ends there")


def _precision(name: str) -> Rule:
    def apply(draft: Draft, flag: str, value: Any) -> None:
        if not is_off(value):
            draft.set("train.precision", name, shown(flag, value))

    return apply


def _recompute(draft: Draft, flag: str, value: Any) -> None:
    if not is_off(value):
        draft.set("train.activation_checkpointing", "full", shown(flag, value))


def _report_to(draft: Draft, flag: str, value: Any) -> None:
    rule = needs_nothing(_TRACKERS) if is_off(value) else has_no_counterpart(_TRACKERS)
    rule(draft, flag, value)


RULES: Mapping[str, Rule] = {
    "model_name_or_path": becomes("model"),
    "output_dir": becomes("out"),
    "seed": becomes("seed"),
    "learning_rate": becomes("train.learning_rate", float),
    "lr_scheduler_type": _schedule,
    "weight_decay": becomes("train.weight_decay", float),
    "adam_epsilon": becomes("train.eps", float),
    "max_grad_norm": becomes("train.max_grad_norm", lambda norm: float(norm) or None),
    "bf16": _precision("bf16"),
    "fp16": _precision("fp16"),
    "gradient_checkpointing": _recompute,
    "recompute": _recompute,
    "save_total_limit": becomes("train.keep_checkpoints"),
    "logging_steps": becomes("train.log_every_steps"),
    "report_to": _report_to,
    "deepspeed": needs_nothing(_SEVERAL),
    "fsdp": needs_nothing(_SEVERAL),
    "local_rank": needs_nothing(_SEVERAL),
    "per_device_eval_batch_size": needs_nothing("held-out rows go in batches of the training's"),
    "eval_accumulation_steps": needs_nothing("losses are added up, never kept"),
    "lazy_preprocess": needs_nothing("rows are tokenized by several processes, and kept"),
    "lazy": needs_nothing("rows are tokenized by several processes, and kept"),
    "disable_tqdm": needs_nothing("progress is shown in a terminal only"),
    "do_train": needs_nothing(_ALREADY),
    "overwrite_output_dir": has_no_counterpart("nothing is overwritten: choose another `out`"),
    "resume_from_checkpoint": needs_nothing("the same command goes on where it stopped"),
    "tf32": needs_nothing("matrix products in float32 are exact; use bf16 for speed"),
    "fp16_opt_level": needs_nothing("weights are moved in float32 at every level"),
    "flash_attn": needs_nothing(_ALREADY),
    "use_flash_attention": needs_nothing(_ALREADY),
    "optim": becomes("train.optimizer", lambda name: OPTIMIZERS.get(str(name), str(name))),
    "remove_unused_columns": needs_nothing("columns of rows are read by their meaning"),
    "ddp_find_unused_parameters": needs_nothing(_SEVERAL),
    "cache_dir": needs_nothing("models are folders; `danlu download` fetches one"),
    "preprocessing_num_workers": becomes("data.workers"),
    "dataloader_num_workers": needs_nothing("batches are cut from tokens that are at hand"),
    "push_to_hub": has_no_counterpart("nothing is uploaded; use the hub's own tool"),
}
BEST_METRICS = {"acc": "held_out_accuracy", "bleu": "bleu4", "rouge": "rougeL"}
TOGETHER = (
    "num_train_epochs",
    "max_steps",
    "per_device_train_batch_size",
    "gradient_accumulation_steps",
    "adam_beta1",
    "adam_beta2",
    "warmup_steps",
    "warmup_ratio",
    "save_strategy",
    "save_steps",
    "evaluation_strategy",
    "eval_strategy",
    "eval_steps",
    "do_eval",
    "load_best_model_at_end",
    "metric_for_best_model",
)
COMPLETE_RULES: Mapping[str, Rule] = {**RULES, **dict.fromkeys(TOGETHER, _together)}


def finish(draft: Draft, arguments: Mapping[str, Any], replicas: int) -> None:
    """Set what several flags decide together.

    Args:
        draft: gets the values.
        arguments: all old flags, with the defaults.
        replicas: on how many devices rows were spread.
    """
    _batches(draft, arguments, replicas)
    _length(draft, arguments)
    _warmup(draft, arguments)
    betas = [float(arguments["adam_beta1"]), float(arguments["adam_beta2"])]
    draft.set("train.betas", betas, "--adam_beta1, --adam_beta2")
    draft.set_default("out", "runs/migrated", "no folder was given")
    draft.set_default("data.batching", "padded", "a row each, as before; packed is faster")
    draft.set_default("data.long", "truncate", "long rows were cut before, too")
    _saving(draft, arguments)
    _evaluating(draft, arguments)


def _saving(draft: Draft, arguments: Mapping[str, Any]) -> None:
    strategy = str(arguments.get("save_strategy", "steps"))
    if strategy == "epoch":
        draft.set("train.save_every_epochs", 1.0, shown("save_strategy", strategy))
    elif strategy == "steps":
        every = int(arguments["save_steps"])
        draft.set("train.save_every_steps", every, shown("save_steps", every))


def _evaluating(draft: Draft, arguments: Mapping[str, Any]) -> None:
    strategy = str(arguments.get("evaluation_strategy", arguments.get("eval_strategy", "no")))
    if strategy == "epoch":
        draft.set("train.eval_every_epochs", 1.0, shown("evaluation_strategy", strategy))
    elif strategy == "steps":
        every = int(arguments.get("eval_steps") or arguments.get("logging_steps") or 500)
        draft.set("train.eval_every_steps", every, shown("eval_steps", every))
    if not is_off(arguments.get("load_best_model_at_end")):
        metric = str(arguments.get("metric_for_best_model") or "loss")
        best = next((new for old, new in BEST_METRICS.items() if old in metric), "held_out_loss")
        draft.set("train.best_metric", best, shown("metric_for_best_model", metric))


def _batches(draft: Draft, arguments: Mapping[str, Any], replicas: int) -> None:
    micro = int(arguments["per_device_train_batch_size"])
    accumulated = int(arguments["gradient_accumulation_steps"])
    draft.set("train.micro_batch_size", micro, shown("per_device_train_batch_size", micro))
    spread = f", {replicas} devices" if replicas > 1 else ""
    origin = f"{shown('gradient_accumulation_steps', accumulated)}{spread}"
    draft.set("train.global_batch_size", micro * accumulated * replicas, origin)


def _length(draft: Draft, arguments: Mapping[str, Any]) -> None:
    steps = arguments.get("max_steps", -1)
    if not is_off(steps):
        draft.set("train.steps", int(steps), shown("max_steps", steps))
        return
    epochs = arguments["num_train_epochs"]
    draft.set("train.epochs", float(epochs), shown("num_train_epochs", epochs))


def _warmup(draft: Draft, arguments: Mapping[str, Any]) -> None:
    steps, ratio = arguments.get("warmup_steps", 0), arguments.get("warmup_ratio", 0.0)
    if not is_off(steps):
        draft.set("train.warmup_steps", int(steps), shown("warmup_steps", steps))
    elif not is_off(ratio):
        draft.set("train.warmup_ratio", float(ratio), shown("warmup_ratio", ratio))

"""PaddleNLP's quantization (`do_ptq`, `do_gptq`) in the words of `danlu quantize`.

Source: PaddlePaddle/PaddleNLP 2.6, `llm/argument.py` (QuantArgument) and the seed's description of
it, whose defaults count where the two differ.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
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
from danlu.commands.migrate.source import Migration, apply_rules
from danlu.errors import ConfigError

DEFAULTS: Mapping[str, Any] = {
    "quant_type": "A8W8",
    "ptq_step": 32,
    "gptq_step": 8,
    "per_device_train_batch_size": 8,
    "max_length": 2048,
    "dataset_name_or_path": "./data",
}
# What a type becomes, in its spelling of both versions.
TYPES: Mapping[str, Mapping[str, Any]] = {
    "a8w8": {"method": "w8a8"},
    "a8w8c8": {"method": "w8a8"},
    "wint4": {"method": "rtn", "bits": 4},
    "wint8": {"method": "rtn", "bits": 8},
    "weight_only_int4": {"method": "rtn", "bits": 4},
    "weight_only_int8": {"method": "rtn", "bits": 8},
}
# Options of smoothing and shifting behind the words smooth_ and shift_: key, kind and old default.
SHARED: Mapping[str, tuple[str, type, Any]] = {
    "all_linears": ("all_linears", bool, False),
    "sampler": ("sampler", str, "none"),
    "step": ("steps", int, 32),
}
SMOOTHING: Mapping[str, tuple[str, type, Any]] = {
    **SHARED,
    "piecewise_search": ("piecewise_search", bool, False),
    "k_piece": ("k_piece", int, 3),
    "search_piece": ("search_piece", bool, False),
}
CHANGES = {"smooth": SMOOTHING, "shift": SHARED}
RANGES = {"search_alpha": (0.2, 0.8), "search_scale": (1.0, 5.0)}
STATIC = (
    "Activations have one scale each, found on the calibration text, as before; "
    "scheme.activations: dynamic finds one for each token and loses less."
)
COMPARED = "the result is always compared with the original, answers side by side"


def migrate_quantization(
    arguments: Mapping[str, Any], of_training: Mapping[str, Rule], notes: tuple[str, ...]
) -> Migration:
    """Return the run file of a quantization.

    Args:
        arguments: the old ones, without defaults.
        of_training: the flags that training has; nothing is needed for them here.
        notes: on the reading of the arguments.

    Raises:
        ConfigError: if there is no such type, or it is made in training.
    """
    given = {**DEFAULTS, **{_spelled(name): value for name, value in arguments.items()}}
    draft = Draft()
    method = _scheme(draft, given)
    if method == "w8a8":
        draft.set("scheme.activations", "static", "activations had one scale each")
        for name, options in CHANGES.items():
            _change(draft, name, options, given)
        _ranges(draft, given)
        notes = (*notes, STATIC)
    _texts(draft, given, "gptq_step" if method == "gptq" else "ptq_step")
    trained = dict.fromkeys(of_training, needs_nothing("nothing is trained"))
    apply_rules(draft, {**trained, **_RULES}, {_spelled(k): v for k, v in arguments.items()})
    draft.set_default("model", "MODEL", "no model was given")
    draft.set_default("out", "runs/quantized", "no folder was given")
    return Migration("PaddleNLP", "danlu quantize RUN.yaml", draft, notes)


def _spelled(flag: str) -> str:
    """Return a flag as the code spells it: the documents say shift_all_linear."""
    return f"{flag}s" if flag.endswith("_all_linear") else flag


def _scheme(draft: Draft, given: Mapping[str, Any]) -> str:
    """Set method and bits; return the method."""
    if not is_off(given.get("do_qat")):
        raise ConfigError(
            "--do_qat rounds weights while they are trained, which that project announced and did "
            "not have. Use --do_ptq or --do_gptq, or fine-tune an adapter on a quantized base."
        )
    if not is_off(given.get("do_gptq")):
        draft.set("scheme.method", "gptq", shown("do_gptq", given["do_gptq"]))
        draft.set("scheme.bits", 4, "GPTQ meant WINT4")
        return "gptq"
    kind = str(given["quant_type"])
    if kind.lower() not in TYPES:
        raise ConfigError(
            f"--quant_type is {kind!r}; expected one of {', '.join(TYPES)}. Correct it."
        )
    for key, value in TYPES[kind.lower()].items():
        draft.set(f"scheme.{key}", value, shown("quant_type", kind))
    if kind.lower().endswith("c8"):
        draft.set("kv_cache.bits", 8, shown("quant_type", kind))
    return str(TYPES[kind.lower()]["method"])


def _change(
    draft: Draft, name: str, options: Mapping[str, tuple[str, type, Any]], given: Mapping[str, Any]
) -> None:
    """Set what is done to activations before they are rounded, with the old defaults."""
    if is_off(given.get(name)):
        draft.set(f"scheme.{name}", None, f"without --{name}")
        return
    for option, (key, kind, default) in options.items():
        flag = f"{name}_{option}"
        value = given.get(flag, default)
        new = not is_off(value) if kind is bool else kind(value)
        origin = shown(flag, value) if flag in given else f"the default of --{flag}"
        draft.set(f"scheme.{name}.{key}", new, origin)


def _ranges(draft: Draft, given: Mapping[str, Any]) -> None:
    """Set what is searched, where smoothing is on."""
    if is_off(given.get("smooth")):
        return
    for name, usual in RANGES.items():
        flags = (f"{name}_min", f"{name}_max")
        if any(flag in given for flag in flags):
            ends = [float(given.get(flag, end)) for flag, end in zip(flags, usual, strict=True)]
            draft.set(f"scheme.smooth.{name}", ends, ", ".join(f"--{flag}" for flag in flags))


def _texts(draft: Draft, given: Mapping[str, Any], step: str) -> None:
    """Set calibration text, so many batches of the training data, and the text compared on."""
    data = str(given["dataset_name_or_path"])
    batch, length = int(given["per_device_train_batch_size"]), int(given["max_length"])
    draft.set(
        "calibration.sources", data, f"{shown('dataset_name_or_path', data)}; quant.json first"
    )
    draft.set(
        "calibration.samples",
        int(given[step]) * batch,
        f"{shown(step, given[step])}, rows: {batch}",
    )
    draft.set("calibration.max_tokens", length, shown("max_length", length))
    draft.set("report.text", str(PurePosixPath(data) / "dev.json"), "evaluated on the dev set")


def _told(draft: Draft, flag: str, value: Any) -> None:
    """Leave a flag to what sets several together."""


def _skip(draft: Draft, flag: str, value: Any) -> None:
    names = value if isinstance(value, list) else [value]
    draft.set("skip", [f"*{name}*" for name in names if not is_off(name)], shown(flag, value))


_OWN = (
    *(*DEFAULTS, "do_ptq", "do_gptq", "do_qat", *CHANGES),
    *(f"{name}_{option}" for name, options in CHANGES.items() for option in options),
    *(f"{name}_{end}" for name in RANGES for end in ("min", "max")),
)
_RULES: Mapping[str, Rule] = {
    **dict.fromkeys(_OWN, _told),
    "model_name_or_path": becomes("model"),
    "output_dir": becomes("out"),
    "seed": becomes("seed", int),
    "skip_list_names": _skip,
    "src_length": needs_nothing("max_length limits prompt and answer together"),
    "tgt_length": needs_nothing("max_length limits prompt and answer together"),
    "chat_template": has_no_counterpart("put the template into the folder of the model"),
    "do_eval": needs_nothing(COMPARED),
    "eval_with_do_generation": needs_nothing(COMPARED),
    "fp16": needs_nothing("blocks are worked on in float32"),
    "bf16": needs_nothing("blocks are worked on in float32"),
    "load_quant_model": needs_nothing("a quantized folder is opened like any other"),
    "task_name": has_no_counterpart("a data set is a file, a folder or hub:owner/name"),
}

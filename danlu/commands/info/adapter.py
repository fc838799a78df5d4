"""Adapters by their config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.adapters.method import methods
from danlu.errors import CheckpointError, DanluError
from danlu.files import size_text
from danlu.hub import resolve
from danlu.loading.building import read_json
from danlu.tokenizer.stamp import read_stamp
from danlu.weights.files import SafetensorsFile

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")


@dataclass(frozen=True)
class AdapterFacts:
    """What an adapter's folder holds.

    Attributes:
        kind: as PEFT names it.
        base: the model it belongs to.
        details: what its config says, by name.
        num_bytes: size of its weights.
        problems: what is missing or damaged.
        notes: what is good to know.
    """

    kind: str
    base: str
    details: Mapping[str, str]
    num_bytes: int
    problems: tuple[str, ...]
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        return [
            ("kind", f"adapter ({self.kind})"),
            ("base", self.base),
            *self.details.items(),
            ("size", size_text(self.num_bytes)),
        ]


def read_adapter_facts(folder: Path) -> AdapterFacts:
    """Return what an adapter's folder holds."""
    problems: list[str] = []
    config: dict[str, Any] = {}
    try:
        config = read_json(folder / ADAPTER_CONFIG)
    except CheckpointError as error:
        problems.append(str(error))
    weights = [folder / name for name in ADAPTER_WEIGHTS if (folder / name).is_file()]
    problems += _weight_problems(weights)
    base = str(config.get("base_model_name_or_path", "not named"))
    kind = str(config.get("peft_type", "unknown"))
    details: dict[str, str] = {}
    try:
        details = _details(config, _stamp(folder, problems))
    except (TypeError, AttributeError) as error:
        problems.append(
            f"'{folder / ADAPTER_CONFIG}' holds a value of a wrong type ({error}). Expected that "
            "of a PEFT adapter; copy or download it again."
        )
    return AdapterFacts(
        kind=kind,
        base=base,
        details=details,
        num_bytes=sum(path.stat().st_size for path in weights),
        problems=tuple(problems),
        notes=(*_notes(base), *_kind_notes(kind)) if config else (),
    )


def _details(config: Mapping[str, Any], stamp: Mapping[str, Any]) -> dict[str, str]:
    """Return what the config says, of any method, and what the stamp adds."""
    patterns = {**(config.get("rank_pattern") or {}), **(config.get("alpha_pattern") or {})}
    named = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "patterns": len(patterns) or None,
        "variant": ", ".join(_variants(config)) or None,
        "layers": _counted(config.get("target_modules")),
        "scaled inputs": _counted(config.get("feedforward_modules")),
        "biases": None if config.get("bias", "none") == "none" else config["bias"],
        "whole modules": ", ".join(config.get("modules_to_save") or []) or None,
        "token rows": _token_rows(config),
        "prefix": config.get("num_virtual_tokens"),
        "chat format": stamp.get("chat_format"),
        "base weights": str(stamp["base"])[:12] if stamp.get("base") else None,
    }
    return {label: str(value) for label, value in named.items() if value is not None}


def _variants(config: Mapping[str, Any]) -> list[str]:
    """Return what of LoRA's relatives an adapter is."""
    start = config.get("init_lora_weights", True)
    names = {"use_dora": "DoRA", "use_rslora": "rank-stabilised", "prefix_projection": "with MLP"}
    found = [name for key, name in names.items() if config.get(key)]
    return [*found, *([f"begun as {start}"] if isinstance(start, str) else [])]


def _counted(modules: Any) -> str | None:
    """Return modules by their number where they are listed."""
    listed = isinstance(modules, list)
    return None if not modules else str(len(modules)) if listed else str(modules)


def _token_rows(config: Mapping[str, Any]) -> str | None:
    """Return how many rows of which modules are trained."""
    rows = config.get("trainable_token_indices", config.get("token_indices"))
    if isinstance(rows, dict):
        return ", ".join(f"{len(ids)} of {module}" for module, ids in rows.items()) or None
    return str(len(rows)) if rows else None


def _weight_problems(weights: list[Path]) -> list[str]:
    if not weights:
        return [f"no weights: none of {', '.join(ADAPTER_WEIGHTS)}"]
    if weights[0].suffix != ".safetensors":
        return []
    try:
        SafetensorsFile(weights[0]).names()
    except CheckpointError as error:
        return [str(error)]
    return []


def _notes(base: str) -> tuple[str, ...]:
    try:
        resolve(base)
    except DanluError:
        return (f"its base '{base}' is not on this machine under that name",)
    return ()


def _kind_notes(kind: str) -> tuple[str, ...]:
    known = [name for method in methods().values() for name in method.peft_types]
    if kind in known:
        return ()
    return (f"adapters of type {kind} are not opened; those of {', '.join(known)} are",)


def _stamp(folder: Path, problems: list[str]) -> dict[str, Any]:
    try:
        return read_stamp(folder)
    except CheckpointError as error:
        problems.append(str(error))
        return {}

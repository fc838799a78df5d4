"""Adapters by their config."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import CheckpointError, DanluError
from danlu.files import size_text
from danlu.hub import resolve
from danlu.loading.building import read_json
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
    base = str(config.get("base_model_name_or_path"))
    return AdapterFacts(
        kind=str(config.get("peft_type", "unknown")),
        base=base,
        details=_details(config),
        num_bytes=sum(path.stat().st_size for path in weights),
        problems=tuple(problems),
        notes=_notes(base),
    )


def _details(config: Mapping[str, Any]) -> dict[str, str]:
    """Return what the config says; layers by their number where it lists them."""
    modules = config.get("target_modules")
    layers = str(len(modules)) if isinstance(modules, list) else modules
    named = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "layers": layers,
        "prefix": config.get("num_virtual_tokens"),
    }
    return {label: str(value) for label, value in named.items() if value is not None}


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

"""An adapter's folder: `adapter_config.json` beside its weights, as PEFT keeps it."""

from pathlib import Path
from typing import Any

from danlu.adapters.front.ptuning_v2 import find_encoder
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.errors import AdapterError
from danlu.files import atomic_file, parse_json, write_json
from danlu.tokenizer.stamp import STAMP, add_to_stamp, read_stamp
from danlu.weights.files import SafetensorsFile, TorchFile, WeightFile
from danlu.weights.writing import write_tensors

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("adapter_model.safetensors", "adapter_model.bin")


def open_folder(folder: Path) -> AdapterSource:
    """Return the adapter in `folder`, its tensors not read yet.

    Raises:
        AdapterError: if its config cannot be read or its weights are missing.
    """
    if not (folder / CONFIG_FILE).exists() and (encoder := find_encoder(folder)):
        return encoder
    config, weights = _read_config(folder / CONFIG_FILE), _weight_file(folder)
    return AdapterSource(folder, config, weights, read_stamp(folder))


def write_folder(folder: Path, content: AdapterContent, base: str) -> None:
    """Write an adapter into `folder`, which is made if needed.

    Args:
        folder: where it goes.
        content: what it holds.
        base: path or id of the model it belongs to.

    Raises:
        OutputError: if the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_file(folder / WEIGHT_FILES[0]) as temporary:
        write_tensors(temporary, content.tensors)
    write_json(folder / CONFIG_FILE, {**content.config, "base_model_name_or_path": base})
    (folder / STAMP).unlink(missing_ok=True)  # of what was here before
    if content.stamp:
        add_to_stamp(folder, **content.stamp)


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise AdapterError(
            f"There is no adapter in '{path.parent}', which has no {path.name}. Expected the "
            "folder of an adapter as PEFT writes it. Check the path."
        )
    try:
        config = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise AdapterError(
            f"'{path}' cannot be read ({error}). Expected that of a PEFT adapter."
        ) from error
    if not isinstance(config, dict):
        raise AdapterError(
            f"'{path}' holds a {type(config).__name__}; expected the JSON object of a PEFT adapter."
        )
    return config


def _weight_file(folder: Path) -> WeightFile:
    for name in WEIGHT_FILES:
        path = folder / name
        if path.exists():
            return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)
    raise AdapterError(f"No adapter weights in '{folder}'. Expected {' or '.join(WEIGHT_FILES)}.")

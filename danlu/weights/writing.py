"""Weight files written as safetensors; in shards with an index where one would be too large."""

import json
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from danlu.errors import OutputError
from danlu.files import atomic_file, write_text

MAX_SHARD_BYTES = 5 * 2**30


def write_weights(
    folder: Path, tensors: Mapping[str, Tensor], max_shard_bytes: int = MAX_SHARD_BYTES
) -> None:
    """Write tensors as `model.safetensors`, or as shards and `model.safetensors.index.json`.

    Raises:
        OutputError: if the folder cannot be written.
    """
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        _write(folder / "model.safetensors", tensors, shards[0])
        return
    places: dict[str, str] = {}
    for number, names in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write(folder / file, tensors, names)
        places |= dict.fromkeys(names, file)
    index = {"metadata": {"total_size": sum(map(_size, tensors.values()))}, "weight_map": places}
    write_text(folder / "model.safetensors.index.json", json.dumps(index, indent=2) + "\n")


def _write(path: Path, tensors: Mapping[str, Tensor], names: list[str]) -> None:
    with atomic_file(path) as temporary:
        write_tensors(temporary, {name: tensors[name] for name in names})


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write one safetensors file; the caller makes it atomic.

    Raises:
        OutputError: if the disk is full or the file cannot be written.
    """
    content = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    try:
        save_file(content, path, metadata={"format": "pt"})
    except SafetensorError as error:
        raise OutputError(
            f"Cannot write '{path}': {error}. Free some space or choose another folder; "
            "what was finished before is intact."
        ) from error


def _shards(tensors: Mapping[str, Tensor], max_bytes: int) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    used = 0
    for name, tensor in tensors.items():
        if shards[-1] and used + _size(tensor) > max_bytes:
            shards.append([])
            used = 0
        shards[-1].append(name)
        used += _size(tensor)
    return shards


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()

"""Weight files read tensor by tensor: safetensors (memory-mapped) and `.bin` (tensors only).

A checkpoint folder holds one file or shards with an index. Nothing in a file is ever executed:
`.bin` goes through torch's restricted unpickler, and whatever in it is not a tensor is refused.
"""

import pickle
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from danlu.errors import CheckpointError, bullet_list
from danlu.files import parse_json
from danlu.weights.memory import drop_mapped_pages
from danlu.weights.old_bitsandbytes import renamed

SINGLE_FILES = ("model.safetensors", "pytorch_model.bin")
INDEX_FILES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
NO_MODEL = ("adapter_model", "training_args", "optimizer", "scheduler")  # beginnings of names


class WeightFile(Protocol):
    """One file of tensors."""

    @property
    def path(self) -> Path:
        """Where it is."""

    def names(self) -> list[str]:
        """Return the names of the tensors."""

    def read(self, name: str) -> Tensor:
        """Return one tensor; the caller may keep it."""

    def give_back(self, name: str) -> None:
        """Take memory from a tensor that was read and is not needed now, where that is possible."""


@dataclass(frozen=True)
class SafetensorsFile:
    """A memory-mapped safetensors file."""

    path: Path

    @cached_property
    def _handle(self) -> Any:
        try:
            return safe_open(self.path, framework="pt")
        except (SafetensorError, OSError) as error:
            raise _damaged(self.path, error) from error

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._handle.keys())

    def read(self, name: str) -> Tensor:
        """Return one tensor, backed by the file until it is copied."""
        tensor: Tensor = self._handle.get_tensor(name)
        return tensor

    def give_back(self, name: str) -> None:
        """Drop the pages of a tensor; who reads it again reads the file again."""
        drop_mapped_pages(self.read(name))


@dataclass(frozen=True)
class TorchFile:
    """A `.bin` file of `torch.save`, in the zip or the legacy format."""

    path: Path

    @cached_property
    def _tensors(self) -> dict[str, Tensor]:
        content = _load_restricted(self.path)
        if not isinstance(content, dict):
            raise CheckpointError(
                f"'{self.path}' holds a {type(content).__name__}; expected tensors by name."
            )
        content = renamed(content)
        other = [
            f"{key!r} is a {type(v).__name__}" for key, v in content.items() if not _named(key, v)
        ]
        if other:
            raise CheckpointError(
                f"'{self.path}' holds more than tensors:{bullet_list(other)}\n"
                "Expected the state dict of a model alone; save that part to a file of its own."
            )
        return content

    def names(self) -> list[str]:
        """Return the names of the tensors."""
        return list(self._tensors)

    def read(self, name: str) -> Tensor:
        """Return one tensor, backed by the file in the zip format, in memory in the legacy one."""
        return self._tensors[name].detach()

    def give_back(self, name: str) -> None:
        """Drop the pages of a tensor that is mapped; forget one that is in memory."""
        if _is_zip(self.path):
            drop_mapped_pages(self._tensors[name])
        else:
            del self._tensors[name]


def _named(key: object, value: object) -> bool:
    return isinstance(key, str) and isinstance(value, Tensor)


def _load_restricted(path: Path) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=_is_zip(path))
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"'{path}' asks to run code or build objects, which is refused: {_first_line(error)} "
            "Expected tensors only. If you trust its origin, convert it to safetensors elsewhere."
        ) from error
    except (RuntimeError, EOFError, OSError, ValueError) as error:
        raise _damaged(path, error) from error


def _is_zip(path: Path) -> bool:
    with path.open("rb") as handle:
        return handle.read(2) == b"PK"


def _damaged(path: Path, error: Exception) -> CheckpointError:
    size = path.stat().st_size if path.exists() else 0
    return CheckpointError(
        f"'{path}' ({size:,} bytes) cannot be read: {_first_line(error)}. "
        "Expected a complete weight file; it is truncated or damaged. Copy or download it again."
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0].split(". ")[0]


def find_weight_files(folder: Path) -> list[WeightFile]:
    """Return the weight files of a checkpoint folder, safetensors before `.bin`.

    Raises:
        CheckpointError: if there are none, or the index names files that are missing.
    """
    for index in INDEX_FILES:
        if (folder / index).exists():
            return [_open(folder / name) for name in _shards(folder / index)]
    for name in (*SINGLE_FILES, *other_names(folder)[:1]):
        if (folder / name).exists():
            return [_open(file) for file in _files_of(folder / name)]
    found = sorted(path.name for path in folder.iterdir())
    raise CheckpointError(
        f"No weights in '{folder}'. Expected one of {', '.join(SINGLE_FILES + INDEX_FILES)}; "
        f"found {', '.join(found) or 'an empty folder'}."
    )


def other_names(folder: Path) -> list[str]:
    """Return the one index or file of weights that is called by a name of its own, if there is one.

    Quantizing tools used to call it after what they did, such as gptq_model-4bit-128g.safetensors,
    and to note that name in quantize_config.json.
    """
    noted = _noted_name(folder)
    for ending in (".safetensors.index.json", ".bin.index.json", ".safetensors", ".bin"):
        names = [path.name for path in folder.glob(f"*{ending}")]
        if noted + ending in names:
            return [noted + ending]
        own = [name for name in names if not name.startswith(NO_MODEL)]
        if len(own) == 1 and not any(folder.glob("*-of-*")):
            return own
    return []


def _noted_name(folder: Path) -> str:
    try:
        values = parse_json((folder / "quantize_config.json").read_text(encoding="utf-8"))
        return str(values["model_file_base_name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _files_of(path: Path) -> list[Path]:
    if path.suffix != ".json":
        return [path]
    return [path.parent / name for name in _shards(path)]


def _open(path: Path) -> WeightFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else TorchFile(path)


def _shards(index: Path) -> list[str]:
    try:
        names = sorted(set(parse_json(index.read_text(encoding="utf-8"))["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise CheckpointError(
            f"'{index}' is not an index of weight files ({type(error).__name__}: {error}). "
            'Expected JSON with a "weight_map" from tensor names to file names.'
        ) from error
    wrong = [name for name in names if Path(name).name != name]
    if wrong:
        raise CheckpointError(f"'{index}' names files outside its folder:{bullet_list(wrong)}")
    missing = [name for name in names if not (index.parent / name).exists()]
    if missing:
        raise CheckpointError(
            f"'{index}' names {len(missing)} files that are missing:{bullet_list(missing)}\n"
            "Copy or download the folder again, whole."
        )
    return names


def stream(files: list[WeightFile]) -> Iterator[tuple[str, Tensor, Path]]:
    """Yield every tensor with its name and file, one at a time; keep a copy of what is needed.

    What was read is given back before the next tensor, so that reading needs little memory besides
    the tensor at hand. A mapped tensor that is kept reads the file again when it is used.
    """
    for listed in files:
        file = _open(listed.path)  # its own handle: the caller's may live on
        for name in listed.names():
            yield name, file.read(name), file.path
            file.give_back(name)

"""The folder of a quantization under way: a file for each block that is finished.

A file is written whole or not at all, so a run that is killed loses the block at hand, nothing
else. The folder belongs to one run on one text: its ``run.json`` says which.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from danlu.calibration.block import LayerResult
from danlu.calibration.records import from_record, to_record
from danlu.errors import CheckpointError, OutputError, bullet_list
from danlu.files import atomic_file, parse_json, write_json
from danlu.quantize.linear import QuantizedLinear
from danlu.weights.files import SafetensorsFile
from danlu.weights.writing import write_tensors

FORMAT = 1
RUN_FILE, LOCK = "run.json", ".lock"
ABOUT, PARAMETER = "about", "parameter."
LONGEST = 60  # characters of a value in an error


class WorkFolder:
    """Finished blocks of one run.

    Args:
        folder: made if needed.
        identity: everything that decides the outcome, as plain JSON by what it is.

    Raises:
        OutputError: if it is the folder of another run, or of none.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder = folder
        path = folder / RUN_FILE
        wanted = {"format": FORMAT, **identity}
        if not path.exists():
            _refuse_foreign(folder)
            write_json(path, wanted)
            return
        found = _read(path)
        changes = [
            f"{key}: {_short(found.get(key))} there, {_short(wanted.get(key))} here"
            for key in {**found, **wanted}
            if found.get(key) != wanted.get(key)
        ]
        if changes:
            raise OutputError(
                f"'{folder}' holds the beginning of another run, which differs in:"
                f"{bullet_list(changes)}\nNothing was changed. Go on with that run as it was, "
                "choose another folder, or remove this one to begin again."
            )

    def has(self, index: int) -> bool:
        """Return whether a block is finished."""
        return self._path(index).exists()

    def write(self, index: int, block: nn.Module, results: Sequence[LayerResult]) -> None:
        """Keep a finished block: its quantized layers, and every other parameter as it is.

        Raises:
            OutputError: if it cannot be written, on a full disk, say; blocks before it are intact.
        """
        tensors: dict[str, Tensor] = {}
        layers = {}
        for name, module in block.named_modules():
            if isinstance(module, QuantizedLinear):
                weight = to_record(module.quantized(), f"{name}.weight", tensors)
                inputs = to_record(module.inputs, f"{name}.inputs", tensors)
                layers[name] = {"weight": weight, "inputs": inputs}
        tensors |= {f"{PARAMETER}{name}": each.detach() for name, each in block.named_parameters()}
        about = {"layers": layers, "results": [asdict(result) for result in results]}
        tensors[ABOUT] = torch.tensor(list(json.dumps(about).encode()), dtype=torch.uint8)
        with atomic_file(self._path(index)) as temporary:
            write_tensors(temporary, {name: each.clone() for name, each in tensors.items()})

    def restore(self, index: int, block: nn.Module, device: torch.device) -> list[LayerResult]:
        """Make a block what it was when it was finished; return what became of its layers.

        Args:
            index: of the block, which is finished.
            block: gets quantized layers and parameters.
            device: where they go.

        Raises:
            CheckpointError: if its file is damaged.
        """
        file = SafetensorsFile(self._path(index))
        tensors = {name: file.read(name).to(device, copy=True) for name in file.names()}
        about = self._about(file.path, tensors)
        for name, record in about["layers"].items():
            weight, inputs = (from_record(record[part], tensors) for part in ("weight", "inputs"))
            parent, _, last = name.rpartition(".")
            setattr(
                block.get_submodule(parent),
                last,
                QuantizedLinear(weight, None, weight.dtype, inputs),
            )
        for name, tensor in tensors.items():
            if name.startswith(PARAMETER):
                owner, _, leaf = name.removeprefix(PARAMETER).rpartition(".")
                parameter = nn.Parameter(tensor, requires_grad=False)
                setattr(block.get_submodule(owner), leaf, parameter)
        return [LayerResult(**{**each, "notes": tuple(each["notes"])}) for each in about["results"]]

    def _about(self, path: Path, tensors: dict[str, Tensor]) -> dict[str, Any]:
        """Take what a file says of its tensors out of them."""
        if ABOUT not in tensors:
            raise CheckpointError(
                f"'{path}' is no finished block. Remove it, and the block is quantized again."
            )
        about: dict[str, Any] = json.loads(bytes(tensors.pop(ABOUT).tolist()))
        return about

    def _path(self, index: int) -> Path:
        return self._folder / f"block-{index:05}.safetensors"


def rows_fingerprint(rows: Sequence[Sequence[int]]) -> str:
    """Return a hash of rows of tokens."""
    return hashlib.sha256(json.dumps([list(row) for row in rows]).encode()).hexdigest()


def _refuse_foreign(folder: Path) -> None:
    others = [path.name for path in folder.iterdir() if path.name != LOCK]
    if others:
        raise OutputError(
            f"'{folder}' is no folder of a quantization under way: it has no {RUN_FILE}, but "
            f"{', '.join(sorted(others)[:5])}. Nothing was changed; choose another folder."
        )


def _read(path: Path) -> dict[str, Any]:
    """Return what a run file says; nothing, if it is none."""
    with suppress(ValueError, OSError):
        found = parse_json(path.read_bytes())
        return found if isinstance(found, dict) else {}
    return {}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."

"""Checkpoints of a run: everything a resumed run needs to end with the same bytes.

    checkpoints/step-000123/weights.safetensors     trainable weights, float32
                            optimizer.safetensors   moments and step counts
                            state.json              counters, data cursor, random states, loss
                                                    scale, best evaluation, checksums
    checkpoints/best/       the same files, weights only (`danlu.train.evaluating.best`)

A checkpoint appears as a whole or not at all. Nothing is pickled.
"""

import hashlib
import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from danlu.errors import CheckpointError
from danlu.files import atomic_folder, parse_json
from danlu.weights.writing import write_tensors

FORMAT = 1
KEEP = 2
_WEIGHTS, _OPTIMIZER, _STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
_OPTIONAL = ("scaling", "best")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Counters:
    """How far a run is: finished steps, tokens seen, targets learned from, seconds at work."""

    step: int = 0
    tokens: int = 0
    targets: int | float = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True)
class Snapshot:
    """The whole state of a run between two steps; the last two are empty where there is none."""

    counters: Counters
    cursor: Mapping[str, int]
    rng: Mapping[str, Any]
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    scaling: Mapping[str, float] = field(default_factory=dict)
    best: Mapping[str, Any] = field(default_factory=dict)


def save_checkpoint(folder: Path, snapshot: Snapshot, keep: int = KEEP) -> Path:
    """Write a checkpoint below `folder`, remove those before the last `keep`, return its path.

    Raises:
        OutputError: if it cannot be written; earlier checkpoints are intact.
    """
    path = folder / f"step-{snapshot.counters.step:06d}"
    write_checkpoint(path, snapshot)
    for old in checkpoint_folders(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return path


def write_checkpoint(path: Path, snapshot: Snapshot) -> None:
    """Write a checkpoint to `path`, in the place of one that is there.

    Raises:
        OutputError: if it cannot be written; the one that was there is intact.
    """
    with atomic_folder(path, replace=True) as temporary:
        write_tensors(temporary / _WEIGHTS, snapshot.weights)
        write_tensors(temporary / _OPTIMIZER, snapshot.optimizer)
        state = {
            "format": FORMAT,
            "counters": asdict(snapshot.counters),
            "cursor": dict(snapshot.cursor),
            "rng": dict(snapshot.rng),
            **{key: dict(getattr(snapshot, key)) for key in _OPTIONAL if getattr(snapshot, key)},
            "sha256": {name: file_sha256(temporary / name) for name in (_WEIGHTS, _OPTIMIZER)},
        }
        text = json.dumps({"state": state, "sha256": _json_sha256(state)})
        (temporary / _STATE).write_text(text + "\n", encoding="utf-8")


def load_newest(folder: Path) -> Snapshot | None:
    """Return the newest checkpoint whose checksums hold, or None if there is no checkpoint.

    A damaged one is reported by a warning, and the one before it is taken.

    Raises:
        CheckpointError: if there are checkpoints but all are damaged.
    """
    _remove_leftovers(folder)
    paths = checkpoint_folders(folder)
    for path in reversed(paths):
        try:
            return load_checkpoint(path)
        except CheckpointError as error:
            _log.warning("%s The checkpoint before it is used, if there is one.", error)
    if paths:
        raise CheckpointError(
            f"All {len(paths)} checkpoints in '{folder}' are damaged; expected at least one whole. "
            "Remove the folder to train from the start."
        )
    return None


def checkpoint_folders(folder: Path) -> list[Path]:
    """Return the checkpoints below `folder`, oldest first."""
    return sorted(
        (path for path in folder.glob("step-*") if path.name[5:].isdigit()),
        key=lambda path: int(path.name[5:]),
    )


def load_checkpoint(path: Path) -> Snapshot:
    """Return the checkpoint in `path`.

    Raises:
        CheckpointError: if a file is missing, or is not what was written.
    """
    try:
        state = _verified_state(path)
        return Snapshot(
            counters=Counters(**state["counters"]),
            cursor=state["cursor"],
            rng=state["rng"],
            weights=load_file(path / _WEIGHTS),
            optimizer=load_file(path / _OPTIMIZER),
            **{key: state.get(key, {}) for key in _OPTIONAL},
        )
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise CheckpointError(
            f"The checkpoint '{path}' is damaged ({error}). Expected the files of format {FORMAT} "
            "as they were written."
        ) from None


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verified_state(path: Path) -> dict[str, Any]:
    record = parse_json((path / _STATE).read_text(encoding="utf-8"))
    state: dict[str, Any] = record["state"]
    if _json_sha256(state) != record["sha256"]:
        raise ValueError(f"{_STATE} does not match its checksum")
    if state["format"] != FORMAT:
        raise ValueError(f"{_STATE} has format {state['format']}")
    for name, expected in state["sha256"].items():
        if file_sha256(path / name) != expected:
            raise ValueError(f"{name} does not match its checksum")
    return state


def _json_sha256(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _remove_leftovers(folder: Path) -> None:
    """Remove what a killed run left half written."""
    for pattern in (".step-*.partial", ".step-*.old", ".best.*"):
        for path in folder.glob(pattern):
            shutil.rmtree(path, ignore_errors=True)

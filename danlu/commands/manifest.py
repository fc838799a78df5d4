"""run.json of a command that makes a model of others: what it was made of, with what, and how."""

import hashlib
import json
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

import danlu
from danlu.files import write_json


def write_manifest(
    folder: Path,
    command: str,
    parents: Mapping[str, str],
    options: Mapping[str, Any],
    result: Mapping[str, Any],
) -> None:
    """Write run.json into `folder`.

    Args:
        folder: of the model that was made.
        command: that made it.
        parents: role -> folder of what it was made of; each is noted with the hash of its run.json.
        options: the resolved options.
        result: what was measured.
    """
    write_json(
        folder / "run.json",
        {
            "command": command,
            "config": dict(options),
            "parents": {role: _parent(path) for role, path in parents.items()},
            "versions": {
                "danlu": danlu.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "result": dict(result),
        },
    )


def _parent(path: str) -> dict[str, str | None]:
    return {"path": path, "sha256": folder_hash(Path(path))}


def folder_hash(folder: Path) -> str:
    """Return a hash over names, sizes and content hashes of the files in a model folder."""
    digest = hashlib.sha256()
    for file in sorted(folder.iterdir()):
        if file.is_file() and file.name not in ("run.json", ".lock"):
            with file.open("rb") as handle:
                content = hashlib.file_digest(handle, "sha256").hexdigest()
            digest.update(json.dumps([file.name, content]).encode())
    return digest.hexdigest()

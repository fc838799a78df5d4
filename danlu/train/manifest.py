"""What run.json tells about a run: versions, inputs with their hashes, counts of parameters."""

import platform
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import danlu
from danlu.config.data import DataSource
from danlu.data.packing import PackedRow, PackedRows
from danlu.data.reading.locating import as_source
from danlu.data.reading.source_files import described, source_files
from danlu.train.checkpoint import file_sha256

MANIFEST = "run.json"
_LIBRARIES = ("torch", "numpy", "safetensors", "tokenizers", "pydantic")


def versions() -> dict[str, str]:
    """Return the versions of danlu, python, the platform and the libraries that decide numbers."""
    return {
        "danlu": danlu.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        **{name: version(name) for name in _LIBRARIES},
        "threads": str(torch.get_num_threads()),
    }


def data_files(sources: Iterable[str | DataSource]) -> list[dict[str, Any]]:
    """Return path, size and hash of each file that the sources are read from.

    Sources that do not exist are left out: whoever reads them says so.
    """
    return [described(file) for source in sources for file in source_files(as_source(source))]


def parents(models: Iterable[str]) -> list[dict[str, str | None]]:
    """Return the run that made each model, with the hash of its run.json, where it is known."""
    found = []
    for path in models:
        run = Path(path).parent / MANIFEST
        known = run.is_file()
        found.append(
            {
                "model": path,
                "run": str(run) if known else None,
                "run_sha256": file_sha256(run) if known else None,
            }
        )
    return found


def parameter_counts(model: nn.Module) -> dict[str, int]:
    """Return how many parameters the model has, tied ones once, and how many are trained."""
    parameters = list(model.parameters())
    return {
        "total": sum(p.numel() for p in parameters),
        "trainable": sum(p.numel() for p in parameters if p.requires_grad),
    }


def packing_counts(rows: Sequence[PackedRow], max_seq_len: int) -> dict[str, int | float]:
    """Return how many documents, tokens and rows there are, and how full the rows are."""
    if isinstance(rows, PackedRows):
        documents, tokens, targets = (
            len(rows.pieces.length),
            int(rows.lengths.sum()),
            rows.num_targets,
        )
    else:
        documents = sum(len(row.documents) for row in rows)
        tokens = sum(row.num_tokens for row in rows)
        targets = sum(row.num_targets for row in rows)
    return {
        "documents": documents,
        "tokens": tokens,
        "targets": targets,
        "rows": len(rows),
        "packing_efficiency": round(tokens / max(1, len(rows) * max_seq_len), 4),
    }

"""What a reference model thinks of all answers, computed once and kept beside the run.

    reference/<hash>/part-000000.safetensors     log_probs [examples, sequences], float32

The hash is of everything the numbers depend on, so other data or another model never meets them.
Parts are computed from their own beginning; a run that was killed computes the missing ones only,
and has the same bytes.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from danlu.data.preferences import Example
from danlu.files import atomic_file
from danlu.models.decoder import Decoder
from danlu.progress import Progress, Silent, working
from danlu.train.preference.batch import collate_sequences
from danlu.train.preference.scoring import answer_log_probs, evaluating
from danlu.weights.writing import write_tensors

FOLDER = "reference"
EXAMPLES_PER_PART = 256
_KEY = "log_probs"


def examples_hash(examples: Sequence[Example], model: Mapping[str, Any]) -> str:
    """Return what names the numbers: a hash of the model's identity and of all tokens."""
    content = hashlib.sha256(json.dumps(dict(model), sort_keys=True).encode())
    for example in examples:
        tokens = [[sequence.ids, sequence.labels] for sequence in example.sequences()]
        content.update(json.dumps(tokens).encode())
    return content.hexdigest()


def stored_log_probs(
    model: Decoder,
    examples: Sequence[Example],
    folder: Path,
    batch_size: int,
    progress: Progress | None = None,
) -> list[list[float]]:
    """Return the log-probability of each sequence of each example, computing what is missing.

    Args:
        model: the reference.
        examples: all of them have equally many sequences.
        folder: of these numbers alone, named by `examples_hash`.
        batch_size: examples that go through the model at once.
        progress: told of the examples.

    Raises:
        OutputError: if the folder cannot be written.
    """
    values: list[list[float]] = []
    with working(progress or Silent(), "reference", len(examples)) as report:
        for start in range(0, len(examples), EXAMPLES_PER_PART):
            part = examples[start : start + EXAMPLES_PER_PART]
            path = folder / f"part-{start // EXAMPLES_PER_PART:06d}.safetensors"
            found = _stored(path, part)
            if found is None:
                found = _computed(model, part, batch_size)
                with atomic_file(path) as temporary:
                    write_tensors(temporary, {_KEY: found})
            values += found.tolist()
            report.advance(len(part))
    return values


def _stored(path: Path, part: Sequence[Example]) -> Tensor | None:
    """Return what a whole part says; None if it is missing or not what it should be."""
    try:
        tensor = load_file(path)[_KEY]
    except (OSError, SafetensorError, KeyError):
        return None
    is_whole = tensor.shape == (len(part), len(part[0].sequences()))
    return tensor if is_whole and bool(torch.isfinite(tensor).all()) else None


def _computed(model: Decoder, part: Sequence[Example], batch_size: int) -> Tensor:
    rows = []
    with evaluating(model):
        for start in range(0, len(part), batch_size):
            batch = part[start : start + batch_size]
            answered = [sequence for example in batch for sequence in example.sequences()]
            sums_S = answer_log_probs(model, collate_sequences(answered).to(model.device))
            rows.append(sums_S.view(len(batch), -1).cpu())
    return torch.cat(rows)

"""A checkpoint with rows for more tokens: embedding and head grow, every other tensor stays.

The weights are rewritten tensor by tensor under their published names; a row that a token had is
kept bit for bit. Rows that the checkpoint has beyond its tokenizer are used before any are made.
"""

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from danlu.errors import CheckpointError, QuantizationError, UnsupportedModelError
from danlu.files import output_errors, parse_json, write_json
from danlu.loading import decoder_from_config, read_model_config
from danlu.loading.building import family_named, family_of_folder
from danlu.loading.layout import EMBEDDING, HEAD, published_layout
from danlu.models.family import detect_family
from danlu.weights.files import find_weight_files, stream
from danlu.weights.writing import write_weights

VOCABULARY_KEYS = ("vocab_size", "padded_vocab_size")
GENERATION_CONFIG = "generation_config.json"
_HEAD_BIAS = "lm_head.bias"
_CHUNK_ROWS = 8192


@dataclass(frozen=True)
class NewRows:
    """How the rows of new tokens start.

    Attributes:
        num_old: the first new id; the rows before it are kept.
        pieces: for each new token, in order, the old ids whose rows its own is the mean of; none:
            the mean of all ordinary rows, as it is for rows without a token.
        ordinary: the old ids that are no control tokens.
    """

    num_old: int
    pieces: Sequence[Sequence[int]]
    ordinary: Sequence[int]


@dataclass(frozen=True)
class RowCounts:
    """Rows of the embedding before and after, and whether the head is the embedding."""

    before: int
    after: int
    is_tied: bool


class Checkpoint:
    """A model folder whose vocabulary shall grow; opened without reading its weights.

    Raises:
        CheckpointError: if config or weights cannot be opened.
        QuantizationError: if it is quantized.
    """

    def __init__(self, folder: Path, family: str | None = None) -> None:
        self.folder = folder
        self.config = read_model_config(folder)
        if "quantization_config" in self.config:
            raise QuantizationError(
                f"'{folder}' is quantized: rows of codes cannot be averaged or added. "
                "Extend the original, then quantize the result."
            )
        decoder = decoder_from_config(self.config, family_of_folder(folder, self.config, family))
        assert decoder.published is not None
        self.family = decoder.published.family
        self.num_rows = decoder.config.vocab_size
        self.is_tied = decoder.config.tie_word_embeddings
        entries = published_layout(decoder).entries
        self._grows = {
            name: entry.ours[0]
            for name, entry in entries.items()
            if entry.ours in ((EMBEDDING,), (HEAD,), (_HEAD_BIAS,))
        }
        self._files = find_weight_files(folder)

    def told_family(self, num_rows: int) -> str | None:
        """Return the family if a config with so many rows would not tell it."""
        try:
            return None if detect_family(self._resized(num_rows)) == self.family else self.family
        except UnsupportedModelError:
            return self.family

    def write(self, out: Path, rows: NewRows, pad_to: int = 1) -> RowCounts:
        """Write config and weights with the new rows into `out`.

        Args:
            out: an existing folder.
            rows: the new tokens.
            pad_to: the number of rows becomes a multiple of it.

        Raises:
            CheckpointError: if the weights do not fit the config.
            OutputError: if something cannot be written.
        """
        needed = max(self.num_rows, rows.num_old + len(rows.pieces))
        num_rows = -(-needed // pad_to) * pad_to
        self._check_opens(num_rows)
        write_weights(out, self._tensors(rows, num_rows))
        write_json(out / "config.json", self._resized(num_rows))
        generation = self.folder / GENERATION_CONFIG
        if generation.is_file():
            with output_errors(out):
                shutil.copyfile(generation, out / GENERATION_CONFIG)
        return RowCounts(self.num_rows, num_rows, self.is_tied)

    def _resized(self, num_rows: int) -> dict[str, Any]:
        changed = {
            key: num_rows for key in VOCABULARY_KEYS if self.config.get(key) == self.num_rows
        }
        return {**self.config, **changed}

    def _check_opens(self, num_rows: int) -> None:
        """Check that the new config is read as this family, with so many rows."""
        config = self._resized(num_rows)
        sizes = decoder_from_config(config, self.family).config.vocab_size
        if sizes != num_rows:
            raise CheckpointError(
                f"'{self.folder}' has {self.num_rows:,} rows, but none of its config keys "
                f"{', '.join(VOCABULARY_KEYS)} says so. Expected one; correct config.json."
            )

    def _tensors(self, rows: NewRows, num_rows: int) -> dict[str, Tensor]:
        prefix = family_named(self.family).optional_prefix
        tensors: dict[str, Tensor] = {}
        found: set[str] = set()
        for name, tensor, path in stream(self._files):
            published = name if name in self._grows else prefix + name
            if published in self._grows:
                found.add(published)
                if len(tensor) != self.num_rows:
                    raise CheckpointError(
                        f"{name} in '{path}' has {len(tensor):,} rows; config.json asks for "
                        f"{self.num_rows:,}. Check that config.json belongs to these weights."
                    )
                tensor = grown(tensor, rows, num_rows)
            tensors[name] = tensor
        self._check_found(found)
        return _unshared(tensors)

    def _check_found(self, found: set[str]) -> None:
        missing = [
            name
            for name, ours in self._grows.items()
            if name not in found and not (self.is_tied and ours == HEAD)
        ]
        if missing:
            raise CheckpointError(
                f"The weights in '{self.folder}' lack {', '.join(missing)}. Expected a complete "
                "checkpoint; copy or download it again."
            )


def grown(matrix: Tensor, rows: NewRows, num_rows: int) -> Tensor:
    """Return `matrix` [V, D] (or a bias [V]) with `num_rows` rows, in its own dtype.

    Means are taken in float64. Rows of old tokens and unused spare rows are kept bit for bit.
    """
    out = matrix.new_empty((num_rows, *matrix.shape[1:]))
    out[: len(matrix)] = matrix
    mean = _mean(matrix, rows.ordinary)
    out[len(matrix) :] = mean
    for index, pieces in enumerate(rows.pieces):
        out[rows.num_old + index] = _mean(matrix, pieces) if pieces else mean
    return out


def _mean(matrix: Tensor, ids: Sequence[int]) -> Tensor:
    total = torch.zeros(matrix.shape[1:], dtype=torch.float64)
    for chunk in torch.tensor(ids).split(_CHUNK_ROWS):
        total += matrix[chunk].double().sum(dim=0)
    return (total / len(ids)).to(matrix.dtype)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return the tensors with their own memory where several had the same (as a `.bin` may)."""
    seen: set[int] = set()
    own: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        own[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return own


def holds_model(folder: Path) -> bool:
    """Return whether a folder is one of a model, and not of a tokenizer alone.

    Raises:
        CheckpointError: if it is an adapter.
    """
    if (folder / "adapter_config.json").is_file():
        base = _base_of(folder / "adapter_config.json")
        raise CheckpointError(
            f"'{folder}' is an adapter, which has no vocabulary of its own. Extend its base "
            f"({base}) and train again; an adapter does not fit a base with other rows."
        )
    weights = any(folder.glob("*.safetensors")) or any(folder.glob("*.bin"))
    return weights or (folder / "config.json").is_file()


def _base_of(path: Path) -> str:
    try:
        return str(parse_json(path.read_text(encoding="utf-8"))["base_model_name_or_path"])
    except (ValueError, OSError, KeyError, TypeError):
        return "not named"

"""Tensors as GGUF stores them: float32, float16, bfloat16, and blocks of 32 in 8 bits.

Conversion is the `gguf` package's own, which llama.cpp's converter uses too: Q8_0 rounds each block
of 32 numbers of a row to int8 with one float16 scale. Source: ggml's Q8_0, gguf 0.19.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import prod
from types import ModuleType
from typing import Any

import numpy as np
from torch import Tensor

from danlu.errors import ExportError, MissingExtraError

Array = np.ndarray[Any, Any]


def gguf_package() -> ModuleType:
    """Return the `gguf` package.

    Raises:
        MissingExtraError: if it is not installed.
    """
    try:
        import gguf
    except ImportError:
        raise MissingExtraError("gguf", "export") from None
    module: ModuleType = gguf
    return module


@dataclass(frozen=True)
class FileType:
    """What a file's matrices are stored as.

    Attributes:
        name: as a user writes it.
        storage: GGUF's name of the storage.
        number: GGUF's `general.file_type`.
        error: largest rounding error of a number, over the largest number of its tensor.
    """

    name: str
    storage: str
    number: int
    error: float


FILE_TYPES = {
    file_type.name: file_type
    for file_type in (
        FileType("f32", "F32", 0, 0.0),
        FileType("f16", "F16", 1, 2**-11),
        FileType("bf16", "BF16", 32, 2**-8),
        FileType("q8_0", "Q8_0", 7, 0.5 / 127 + 2**-10),
    )
}
EXACT = FILE_TYPES["f32"]
FALLBACK = FILE_TYPES["f16"]
BLOCK_SIZE = 32  # of Q8_0
BLOCK_NUMBERS = 2**22  # that are converted at a time
_FLOAT16, _FLOAT32 = float(np.finfo(np.float16).max), float(np.finfo(np.float32).max)
_LARGEST = {"F32": _FLOAT32, "BF16": _FLOAT32, "F16": _FLOAT16, "Q8_0": 127 * _FLOAT16}


@dataclass(frozen=True)
class Stored:
    """How one tensor is stored."""

    name: str
    shape: tuple[int, ...]
    file_type: FileType

    @property
    def num_bytes(self) -> int:
        """Bytes of its data."""
        block_size, block_bytes = gguf_package().GGML_QUANT_SIZES[self.number]
        return prod(self.shape) // int(block_size) * int(block_bytes)

    @property
    def number(self) -> Any:
        """GGUF's own value for the storage."""
        return gguf_package().GGMLQuantizationType[self.file_type.storage]

    def encode(self, tensor: Tensor) -> Array:
        """Return the bytes of `tensor`, which has this shape, as uint8 in one row.

        Raises:
            ExportError: if a number is not finite, or too large for the storage.
        """
        stored = np.empty(self.num_bytes, np.uint8)
        for rows, place in self._blocks():
            values = float32(tensor[rows])
            self._check(values)
            stored[place] = gguf_package().quantize(values, self.number).view(np.uint8).ravel()
        return stored

    def _check(self, values: Array) -> None:
        largest = float(max(values.max(initial=0.0), -values.min(initial=0.0)))
        limit = _LARGEST[self.file_type.storage]
        if not largest <= limit:  # NaN fails too
            raise ExportError(
                f"{self.name} holds the number {largest}, which {self.file_type.name} cannot "
                f"hold. Expected finite numbers up to {limit:g}; choose bf16 or f32, or repair "
                "the weights."
            )

    def rounding_error(self, tensor: Tensor, stored: Array) -> float:
        """Return how far `stored` is from `tensor` at most, over the largest number in it."""
        kind = {"F32": np.float32, "F16": np.float16}.get(self.file_type.storage, np.uint8)
        worst = largest = 0.0
        for rows, place in self._blocks():
            wanted = float32(tensor[rows])
            found = gguf_package().dequantize(stored[place].view(kind), self.number)
            difference = np.abs(found.reshape(wanted.shape) - wanted)
            worst = float(np.maximum(worst, difference.max(initial=0.0)))
            largest = max(largest, float(np.abs(wanted).max(initial=0.0)))
        return worst / largest if largest else worst

    def _blocks(self) -> Iterator[tuple[slice, slice]]:
        """Yield runs of rows and the places of their bytes, so that no large copy is made."""
        num_rows = self.shape[0]
        row_bytes = self.num_bytes // num_rows
        step = max(1, BLOCK_NUMBERS * num_rows // prod(self.shape))
        for start in range(0, num_rows, step):
            end = min(start + step, num_rows)
            yield slice(start, end), slice(start * row_bytes, end * row_bytes)


def float32(tensor: Tensor) -> Array:
    """Return the numbers of a tensor."""
    values: Array = tensor.float().cpu().contiguous().numpy()
    return values


def storage_of(name: str, shape: Sequence[int], asked: FileType, is_exact: bool) -> Stored:
    """Return how a tensor is stored in a file of type `asked`.

    Vectors, norms and position tables stay float32, as every graph expects. Rows that do not make
    whole blocks become float16.
    """
    file_type = asked
    if is_exact or len(shape) < 2:
        file_type = EXACT
    elif asked.storage == "Q8_0" and shape[-1] % BLOCK_SIZE:
        file_type = FALLBACK
    return Stored(name, tuple(shape), file_type)

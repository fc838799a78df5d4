"""Tensors as GGUF stores them: float32, float16, bfloat16, and blocks of 32 in 8 bits.

Conversion is the `gguf` package's own, which llama.cpp's converter uses too: Q8_0 rounds each block
of 32 numbers of a row to int8 with one float16 scale. Source: ggml's Q8_0, gguf 0.19.
"""

from collections.abc import Sequence
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
        """Return the bytes of `tensor`, which has this shape.

        Raises:
            ExportError: if a number is not finite, or too large for the storage.
        """
        values = tensor.float().cpu().contiguous().numpy()
        with np.errstate(over="ignore"):
            stored: Array = gguf_package().quantize(values, self.number)
        largest = float(np.abs(values).max(initial=0.0))
        limit = 65504.0 * {"f16": 1, "q8_0": 127}.get(self.file_type.name, float("inf"))
        if not largest <= min(limit, float(np.finfo(np.float32).max)):
            raise ExportError(
                f"{self.name} holds the number {largest}, which {self.file_type.name} cannot "
                f"hold. Expected finite numbers up to {limit:g}; choose bf16 or f32, or repair "
                "the weights."
            )
        return stored

    def decode(self, stored: Array) -> Array:
        """Return the float32 numbers of stored bytes (uint8, in one row)."""
        kind = {"F32": np.float32, "F16": np.float16}.get(self.file_type.storage, np.uint8)
        values: Array = gguf_package().dequantize(stored.view(kind), self.number)
        return values.reshape(self.shape)


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

"""A GGUF file written tensor by tensor, and read back.

The header names every tensor with its shape and place, so it is planned from shapes alone; data
follows, one tensor in memory at a time. Source: GGUF version 3; the `gguf` package writes it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from danlu.errors import ExportError
from danlu.export.gguf.architecture import Value
from danlu.export.gguf.encoding import Array, Stored, gguf_package
from danlu.files import atomic_file
from danlu.progress import Progress, working


@dataclass(frozen=True)
class Planned:
    """A tensor to be written: how it is stored, and where it comes from."""

    stored: Stored
    make: Callable[[], Tensor]


def write_gguf(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Value],
    tensors: Sequence[Planned],
    progress: Progress,
) -> float:
    """Write a GGUF file, read it back, and give it its name.

    Returns:
        The largest rounding error that was read back, over the largest number of its tensor.

    Raises:
        ExportError: if what was read back is not what was written.
        OutputError: if the file cannot be written.
    """
    with atomic_file(path) as temporary, working(progress, "write", 2 * len(tensors)):
        writer = gguf_package().GGUFWriter(temporary, architecture)
        try:
            _write(writer, metadata, tensors, progress)
        finally:
            writer.close()
        return _check(temporary, tensors, progress)


def _write(
    writer: Any, metadata: Mapping[str, Value], tensors: Sequence[Planned], progress: Progress
) -> None:
    for key, value in metadata.items():
        _add(writer, key, value)
    for tensor in tensors:
        stored = tensor.stored
        writer.add_tensor_info(
            stored.name, stored.shape, np.dtype(np.float32), stored.num_bytes, stored.number
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors:
        writer.write_tensor_data(tensor.stored.encode(tensor.make()))
        progress.advance(1, tensor.stored.name)


def _add(writer: Any, key: str, value: Value) -> None:
    """Add one key; sizes are unsigned, as the format's own keys are."""
    if isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    else:
        writer.add_array(key, list(value))


def _check(path: Path, tensors: Sequence[Planned], progress: Progress) -> float:
    """Return the largest rounding error of the file, which must be within its types' bounds."""
    worst = 0.0
    for planned, data in zip(tensors, _stored_data(path, tensors), strict=True):
        stored = planned.stored
        error = stored.rounding_error(planned.make(), data)
        if not error <= stored.file_type.error:
            raise ExportError(
                f"{stored.name} was read back with an error of {error:.1e}; "
                f"{stored.file_type.name} allows {stored.file_type.error:.1e}. Nothing was kept: "
                "the disk may be damaged. Write to another one."
            )
        worst = max(worst, error)
        progress.advance(1, "read back")
    return worst


def _stored_data(path: Path, tensors: Sequence[Planned]) -> Iterator[Array]:
    """Yield the bytes of every tensor; the data section is the end of the file, in order.

    The `gguf` package would read the header again, which takes a minute for a large vocabulary.
    """
    alignment = gguf_package().GGUF_DEFAULT_ALIGNMENT
    sizes = [-(-planned.stored.num_bytes // alignment) * alignment for planned in tensors]
    start = path.stat().st_size - sum(sizes)
    for planned, size in zip(tensors, sizes, strict=True):
        yield np.memmap(path, np.uint8, "r", start, (planned.stored.num_bytes,))
        start += size

"""Host memory while weights stream in (Linux with glibc; elsewhere nothing is changed)."""

import ctypes
import mmap
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LOADING_BYTES, USUAL_BYTES = 2**20, 2**25


@contextmanager
def freed_blocks_returned() -> Iterator[None]:
    """Let large blocks that are freed inside go back to the system at once.

    malloc learns from freed blocks to keep blocks of up to 32 MiB; the holes that weights in
    transit leave would then add a sixth to the memory of a small model. Afterwards it keeps them
    again, which is faster for activations.
    """
    _return_from(LOADING_BYTES)
    try:
        yield
    finally:
        _return_from(USUAL_BYTES)


def _return_from(size: int) -> None:
    """Return freed blocks of this size, and a free end of the heap of eight times as much."""
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, size)
        mallopt(M_TRIM_THRESHOLD, 8 * size)


def drop_mapped_pages(tensor: Tensor) -> None:
    """Give back the pages of a tensor that is mapped from a file and was not written to.

    It stays valid: pages that are read again come from the file. Pages that it shares with its
    neighbours stay.
    """
    if sys.platform != "linux" or tensor.device.type != "cpu":
        return
    start = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if end > start:
        address, length = ctypes.c_void_p(start), ctypes.c_size_t(end - start)
        ctypes.CDLL(None).madvise(address, length, mmap.MADV_DONTNEED)

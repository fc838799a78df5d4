"""The worker that measures how fast weights can be read: the limit of decoding one sequence.

Options: device. Each answer is the best of several passes over one large tensor, by the quickest of
three ways to read it once.
"""

import time
from collections.abc import Callable

import torch

from benchmarks.worker import Answer, options_of_worker, serve

COLUMNS, PASSES = 8192, 5


class Reader:
    """A large matrix and the ways to read it.

    Args:
        device: where it lies.
        size: its bytes; far larger than any cache.
    """

    def __init__(self, device: str, size: int) -> None:
        self._matrix = torch.ones(size // (4 * COLUMNS), COLUMNS, device=device)
        self._vector = torch.ones(COLUMNS, device=device)
        flat = self._matrix.flatten()
        self._ways: tuple[Callable[[], torch.Tensor], ...] = (
            self._matrix.sum,
            lambda: torch.mv(self._matrix, self._vector),
            lambda: torch.dot(flat, flat),
        )

    def measure(self) -> Answer:
        """Return the bytes per second of the quickest pass."""
        fastest = min(self._seconds(way) for way in self._ways for _ in range(PASSES))
        return {"bytes_per_s": self._matrix.nbytes / fastest}

    def _seconds(self, way: Callable[[], torch.Tensor]) -> float:
        start = time.perf_counter()
        way().flatten()[:1].tolist()  # waits for the device
        return time.perf_counter() - start


if __name__ == "__main__":
    serve({"measure": Reader(**options_of_worker()).measure})

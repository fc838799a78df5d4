"""Running an encoder over many examples: in this process, or in several, always in order."""

import time
import weakref
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from danlu.data.encoded.encoding import Encoder
from danlu.data.encoded.store import Encoded
from danlu.data.encoded.workers import WorkerPool, available_cores

MOST_EXAMPLES, MOST_BYTES = 256, 1 << 18  # of a chunk, the unit of work
_SECONDS_ALONE = 2.0  # what takes less is not worth starting other processes

Example = TypeVar("Example")


@dataclass(frozen=True)
class EncodedChunk:
    """What a few neighbouring examples became, and about how many bytes of files they were."""

    rows: list[Encoded]
    num_bytes: int


@dataclass(frozen=True)
class _Chunk(Generic[Example]):
    examples: list[Example]
    num_bytes: int


def encode_in_order(
    examples: Iterable[Example], encoder: Encoder[Example], workers: int | None = None
) -> Iterator[EncodedChunk]:
    """Yield what the examples become, in their order, which does not depend on the workers.

    Args:
        examples: read as they are needed.
        encoder: turns a few of them into rows.
        workers: processes at work; 1: this one alone; None: this one, and one for each core if it
            takes more than a moment.

    Raises:
        DanluError: what the examples or the encoder raise, in whatever process; `DataError` if a
            process dies.
    """
    chunks = _chunks(examples, encoder)
    work = _Work(encoder)
    most = available_cores() if workers is None else workers
    if workers is None or most == 1:
        until = None if most == 1 else time.monotonic() + _SECONDS_ALONE
        for chunk in chunks:
            yield work(chunk)
            if until is not None and time.monotonic() > until:
                break
        else:
            return
    pool: WorkerPool[_Chunk[Example], EncodedChunk] = WorkerPool(work, most, _name)
    with pool:
        yield from pool.map(chunks)


class ChunkEncoder(Generic[Example]):
    """Encodes lists of examples, one after the other, with processes that stay in between.

    Args:
        encoder: turns a few examples into rows.
        workers: how many other processes; 0: this one does the work.
    """

    def __init__(self, encoder: Encoder[Example], workers: int) -> None:
        self._encoder = encoder
        self._workers = workers
        self._pool: WorkerPool[_Chunk[Example], EncodedChunk] | None = None

    def __call__(self, examples: list[Example]) -> list[Encoded]:
        """Return what the examples become, in order."""
        work, chunks = _Work(self._encoder), _chunks(examples, self._encoder)
        if not self._workers:
            return [row for chunk in chunks for row in work(chunk).rows]
        if self._pool is None:
            self._pool = WorkerPool(work, self._workers, _name)
            weakref.finalize(self, self._pool.close)
        return [row for chunk in self._pool.map(chunks) for row in chunk.rows]


class _Work(Generic[Example]):
    """Encodes a chunk."""

    def __init__(self, encoder: Encoder[Example]) -> None:
        self._encoder = encoder

    def __call__(self, chunk: _Chunk[Example]) -> EncodedChunk:
        return EncodedChunk(self._encoder(chunk.examples), chunk.num_bytes)


def _chunks(examples: Iterable[Example], encoder: Encoder[Example]) -> Iterator[_Chunk[Example]]:
    chunk: list[Example] = []
    num_bytes = 0
    for example in examples:
        chunk.append(example)
        num_bytes += encoder.size(example)
        if len(chunk) == MOST_EXAMPLES or num_bytes >= MOST_BYTES:
            yield _Chunk(chunk, num_bytes)
            chunk, num_bytes = [], 0
    if chunk:
        yield _Chunk(chunk, num_bytes)


def _name(chunk: _Chunk[Example]) -> str:
    first, last = (getattr(chunk.examples[at], "origin", "?") for at in (0, -1))
    return f"{first} to {last}"

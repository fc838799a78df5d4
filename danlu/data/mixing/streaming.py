"""Data that is read while training: endless sources, taken in turns, a block of examples at a time.

A block is what the shuffle buffer holds: so many examples in their order, encoded, packed best fit,
its rows shuffled. Its rows depend on the sources, the seed and the number of the block alone, so
the place in the stream is that number and how many of its rows were taken; whoever goes on reads,
without encoding, past what came before. While a block is trained on, the next is made ready.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, TypeVar

import numpy as np

from danlu.config.data import DataSource
from danlu.data.documents import DocumentList
from danlu.data.encoded.cache import Reader
from danlu.data.encoded.encoding import Encoder, as_document
from danlu.data.encoded.encoding_many import ChunkEncoder
from danlu.data.encoded.store import Encoded
from danlu.data.ledger import Ledger
from danlu.data.mixing.passes import Arrange
from danlu.data.packing import PackedRows
from danlu.errors import DataError

Example = TypeVar("Example")


@dataclass(frozen=True)
class StreamOptions:
    """How a stream becomes rows.

    Attributes:
        arrange: makes rows of the documents of a block.
        max_seq_len: tokens of the longest row.
        shuffle_buffer: examples of a block.
        seed: of the packing.
        max_dropped: more dropped examples than this are an error; None: any number.
        workers: other processes that encode; 0: this one does.
    """

    arrange: Arrange
    max_seq_len: int
    shuffle_buffer: int
    seed: int
    max_dropped: int | None
    workers: int = 0


@dataclass
class _Block:
    """Encoded examples, and what was found on the way to them in the first pass over a source."""

    rows: list[Encoded] = field(default_factory=list)
    is_new: list[bool] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)


class StreamedPasses(Generic[Example]):
    """Passes of one block each over endless sources.

    Args:
        sources: taken in turns, each as often as its weight says.
        read: yields the examples of a source.
        encoder: makes documents of them.
        options: how these become rows.
        ledger: grows with each block; an example is counted once, however often it is seen.
    """

    def __init__(
        self,
        sources: Sequence[DataSource],
        read: Reader[Example],
        encoder: Encoder[Example],
        options: StreamOptions,
        ledger: Ledger,
    ) -> None:
        self.ledger = ledger
        self._sources = list(sources)
        self._read = read
        self._options = options
        self._encoder = ChunkEncoder(encoder, options.workers)
        self._thread = ThreadPoolExecutor(1, "danlu-stream")
        self._made: tuple[int, PackedRows] | None = None
        self._ahead: tuple[int, Future[_Block]] | None = None
        self._stream: _Stream[Example] | None = None
        self._noted = 0  # blocks that are in the ledger

    def rows(self, number: int) -> PackedRows:
        """Return the rows of a block.

        Raises:
            DataError: if more examples were dropped than may be, or a block has none to learn.
        """
        if self._made is None or self._made[0] != number:
            block = self._awaited(number)
            self._ahead = number + 1, self._thread.submit(self._block, number + 1)
            if number == self._noted:
                self._note(block)
            self._made = number, self._arranged(block)
        return self._made[1]

    def lengths(self, number: int) -> Sequence[int]:
        """Return the tokens of each row of a block."""
        lengths: list[int] = self.rows(number).lengths.tolist()
        return lengths

    def state(self) -> dict[str, Any]:
        """Return the ledger so far, as plain JSON."""
        return {"noted": self._noted, "ledger": self.ledger.summary()}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` returned."""
        self._noted = state["noted"]
        self.ledger.restore(state["ledger"])

    def _awaited(self, number: int) -> _Block:
        """Return a block, made ahead if it is the next."""
        if self._ahead is not None and self._ahead[0] == number:
            return self._ahead[1].result()
        return self._thread.submit(self._block, number).result()

    def _block(self, number: int) -> _Block:
        """Read and encode a block; only ever called in the one thread."""
        size = self._options.shuffle_buffer
        if self._stream is None or self._stream.taken != number * size:
            self._stream = _Stream(self._sources, self._read)
            self._stream.skip(number * size)
        taken = list(islice(self._stream, size))
        rows = self._encoder([example for example, _ in taken])
        return _Block(rows, [is_new for _, is_new in taken], self._stream.take_left_out())

    def _note(self, block: _Block) -> None:
        for row, is_new in zip(block.rows, block.is_new, strict=True):
            if is_new:
                self.ledger.note(row.origin, row.note, is_dropped=row.arrays is None)
        for line in block.left_out:
            origin, _, reason = line.partition(": ")
            self.ledger.drop(origin, reason)
        self._noted += 1
        self.ledger.check_dropped(self._options.max_dropped)

    def _arranged(self, block: _Block) -> PackedRows:
        documents = [as_document(row) for row in block.rows if row.arrays is not None]
        if not documents:
            raise DataError(
                f"None of {len(block.rows)} examples from {block.rows[0].origin} to "
                f"{block.rows[-1].origin} can be learned; expected at least one. "
                "Check the data, or raise max_seq_len."
            )
        listed, options = DocumentList(documents), self._options
        chosen = np.arange(len(documents))
        return options.arrange(listed, chosen, options.max_seq_len, options.seed)


class _Stream(Generic[Example]):
    """Endless examples of several sources, each with whether it is seen for the first time.

    Attributes:
        taken: how many were taken.
    """

    def __init__(self, sources: Sequence[DataSource], read: Reader[Example]) -> None:
        self.taken = 0
        self._weights = [source.weight for source in sources]
        self._counts = [0] * len(sources)
        self._left_out: list[str] = []
        self._endless = [self._without_end(source, read) for source in sources]

    def __iter__(self) -> "_Stream[Example]":
        return self

    def __next__(self) -> tuple[Example, bool]:
        source = self._next_source()
        self._counts[source] += 1
        self.taken += 1
        return next(self._endless[source])

    def skip(self, count: int) -> None:
        """Go past `count` examples."""
        for _ in islice(self, count):
            pass
        self.take_left_out()

    def take_left_out(self) -> list[str]:
        """Return the rows left out since the last call, as ``file:line: why``."""
        taken, self._left_out[:] = list(self._left_out), []
        return taken

    def _next_source(self) -> int:
        """Return the source that is furthest behind its share."""
        total, share = sum(self._weights), self.taken + 1
        behind = [
            weight / total * share - count
            for weight, count in zip(self._weights, self._counts, strict=True)
        ]
        return behind.index(max(behind))

    def _without_end(
        self, source: DataSource, read: Reader[Example]
    ) -> Iterator[tuple[Example, bool]]:
        for example in read(source, self._left_out):
            yield example, True
        while True:
            empty = True
            for example in read(source, []):
                empty = False
                yield example, False
            if empty:
                raise DataError(
                    f"'{source.path}' has no row that can be learned; expected at least one."
                )

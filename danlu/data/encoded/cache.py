"""Encoded data that is kept, so that the next run with the same data begins at once.

    DANLU_HOME (default ~/.cache/danlu) / encoded / KEY / store.json, ids.bin, ...

The key is a hash of the data files, of how they are read, and of everything that decides what the
encoder makes of them, Danlu's version included. A store is verified by its checksums before it is
used; a damaged one is made again. Whoever comes second waits for the first. The least recently used
stores are removed once all together are larger than `MOST_BYTES`.
"""

import fcntl
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

import danlu
from danlu.config.data import DataSource
from danlu.data.encoded.encoding import Encoder
from danlu.data.encoded.encoding_many import encode_in_order
from danlu.data.encoded.store import MANIFEST, ArrayStore, verify
from danlu.data.encoded.store_writing import StoreWriter
from danlu.data.reading.source_files import described, source_files
from danlu.errors import DanluError, DataError, OutputError
from danlu.files import PARTIAL, output_errors
from danlu.progress import Progress, Silent, working

MOST_BYTES = 50_000_000_000
_KEY_LENGTH = 32  # hexadecimal digits
_FORGOTTEN_S = 7 * 24 * 3600

Example = TypeVar("Example")
# Yields the examples of a source. The list takes rows that are left out, as "file:line: why";
# with None such rows are an error.
Reader = Callable[[DataSource, list[str] | None], Iterable[Example]]
_log = logging.getLogger(__name__)


def cache_folder(chosen: str | None = None) -> Path:
    """Return the folder of encoded data: the chosen one, or the user's own."""
    if chosen is not None:
        return Path(chosen).expanduser()
    home = os.environ.get("DANLU_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "danlu") / "encoded"


def encoded_store(
    source: DataSource,
    read: Reader[Example],
    encoder: Encoder[Example],
    folder: Path,
    *,
    tolerant: bool = False,
    workers: int | None = None,
    progress: Progress | None = None,
) -> ArrayStore:
    """Return the rows of a source as the encoder makes them, from the cache if they are there.

    Args:
        source: what is read.
        read: yields the examples of the source.
        encoder: turns them into rows.
        folder: of the cache.
        tolerant: rows that are no example are dropped and noted; else they are an error.
        workers: as in `encode_in_order`.
        progress: told the bytes of text that are encoded.

    Raises:
        DanluError: what reading and encoding raise; nothing is kept then.
        OutputError: if the folder cannot be written.
    """
    about = {**made_of(source, encoder), "tolerant": tolerant}
    dropped: list[str] | None = [] if tolerant else None
    path = folder / _key(about)
    with _naming_the_option(), _only_one(path):
        if (path / MANIFEST).exists():
            try:
                verify(path)
                os.utime(path)
                return ArrayStore(path)
            except DataError as error:
                _log.warning("%s It is made again now.", error)
                shutil.rmtree(path, ignore_errors=True)
        with StoreWriter(path, encoder.columns, path.name) as writer:
            write_examples(writer, read(source, dropped), encoder, about, workers, progress)
            for line in dropped or []:
                origin, _, reason = line.partition(": ")
                writer.fate.dropped.append((origin, reason, 0.0))
            writer.finish(about)
    remove_old(folder, keep=path)
    return ArrayStore(path)


def made_of(source: DataSource, encoder: Encoder[Any]) -> dict[str, Any]:
    """Return everything that decides the rows of a source, as plain JSON."""
    options = source.model_dump(mode="json", exclude={"weight"})
    return {
        "danlu": danlu.__version__,
        "source": options,
        "files": [described(file) for file in source_files(source)],
        **encoder.identity(),
    }


def write_examples(
    writer: StoreWriter,
    examples: Iterable[Example],
    encoder: Encoder[Example],
    about: Mapping[str, Any],
    workers: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Fill a writer with what the examples become; those it already has are skipped.

    What was written is removed if the examples are wrong, and left for the next try if the work
    is stopped.
    """
    total = sum(file["bytes"] for file in about["files"]) or None
    began, tokens = time.monotonic(), 0
    with working(progress or Silent(), "encode", total) as report:
        try:
            for chunk in encode_in_order(_after(examples, writer.examples), encoder, workers):
                for row in chunk.rows:
                    writer.append(row)
                    tokens += len(row.arrays[0]) if row.arrays else 0
                speed = tokens / max(time.monotonic() - began, 1e-9)
                report.advance(chunk.num_bytes, f"{writer.examples:,} rows  {speed:,.0f} tok/s")
        except DanluError:
            writer.discard()
            raise


def remove_old(folder: Path, keep: Path, most_bytes: int = MOST_BYTES) -> None:
    """Remove the stores that were not used for longest until the others fit; never `keep`.

    A run that still reads a removed store keeps what it has mapped.
    """
    with suppress(OSError):  # another run may remove some at the same time
        for path in folder.glob(f".*{PARTIAL}"):  # of runs that were killed, and never came back
            if time.time() - path.stat().st_mtime > _FORGOTTEN_S:
                shutil.rmtree(path, ignore_errors=True)
        stores = [path.parent for path in folder.glob(f"[!.]*/{MANIFEST}")]
        left = most_bytes
        for path in sorted(stores, key=lambda path: path.stat().st_mtime, reverse=True):
            left -= sum(file.stat().st_size for file in path.iterdir())
            if left < 0 and path != keep:
                _log.info("Removed encoded data that was not used lately: '%s'", path)
                shutil.rmtree(path, ignore_errors=True)


def _key(about: Mapping[str, Any]) -> str:
    text = json.dumps(about, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_KEY_LENGTH]


def _after(examples: Iterable[Example], count: int) -> Iterator[Example]:
    """Yield the examples that come after the first `count`."""
    for number, example in enumerate(examples):
        if number >= count:
            yield example


@contextmanager
def _naming_the_option() -> Iterator[None]:
    try:
        yield
    except OutputError as error:
        raise OutputError(f"{error} (Encoded data is kept there, as data.cache says.)") from error


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold the lock of a store; wait for another run that makes the same one."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = path.with_name(f".{path.name}.lock").open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log.info("Another run encodes the same data; waiting for it.")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield

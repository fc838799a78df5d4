"""One file from a hub: begun or gone on with, tried again, and compared with its checksum."""

import http.client
import logging
import os
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from danlu.errors import DownloadError
from danlu.files import output_errors
from danlu.hub.connection import Connection, HubAnswer, Transient
from danlu.hub.listing import RemoteFile, is_intact

logger = logging.getLogger(__name__)

CHUNK_BYTES = 2**18
ATTEMPTS = 6  # in a row that bring nothing
LONGEST_WAIT_S = 30.0
WRONG_COPIES = 2


class Stopped(Exception):
    """The download was asked to stop; what has arrived stays for the next time."""


@dataclass(frozen=True)
class Fetching:
    """What fetching a file needs besides the file.

    Attributes:
        connection: to the hub.
        address: from a file to its address on the hub.
        on_bytes: is told how many bytes arrived; negative where they are to be fetched again.
        stop: set where everything is to stop.
        wait: waits for seconds between two tries.
    """

    connection: Connection
    address: Callable[[RemoteFile], str]
    on_bytes: Callable[[int], None]
    stop: threading.Event
    wait: Callable[[float], object]


def fetch(job: Fetching, file: RemoteFile, part: Path) -> None:
    """Complete `part`, from whatever of it is there, until it equals the hub's checksum.

    Raises:
        DownloadError: if the hub does not answer for long, or keeps sending something else.
        HubAnswer: if the hub refuses.
        OutputError: if the disk does.
        Stopped: if the download was asked to stop.
    """
    for _ in range(WRONG_COPIES):
        _complete(job, file, part)
        if is_intact(part, file):
            return
        logger.warning("%s arrived damaged; it is fetched again.", file.path)
        _drop(job, part)
    raise DownloadError(
        f"{job.connection.endpoint} sent '{file.path}' {WRONG_COPIES} times with a wrong "
        f"{file.algorithm}; expected {file.digest}. The copy there, or something on the way (a "
        "proxy?), is damaged. Nothing of it was kept; try again later, or another endpoint."
    )


def _complete(job: Fetching, file: RemoteFile, part: Path) -> None:
    """Receive until the part has its full size, with ever longer waits while nothing comes."""
    failures = 0
    while _size(part) < file.size or not part.exists():
        before = _size(part)
        try:
            _receive(job, file, part)
        except Transient as trouble:
            failures = 1 if _size(part) > before else failures + 1
            if failures >= ATTEMPTS:
                raise _gave_up(job, file, part, trouble) from None
            pause = max(trouble.retry_after_s, min(2.0 ** (failures - 1), LONGEST_WAIT_S))
            logger.info("%s: %s; trying again in %.0f s", file.path, trouble, pause)
            job.wait(pause)


def _gave_up(job: Fetching, file: RemoteFile, part: Path, trouble: Transient) -> DownloadError:
    return DownloadError(
        f"'{file.path}' stopped after {_size(part):,} of {file.size:,} bytes: {trouble} "
        f"({job.connection.endpoint}, {ATTEMPTS} tries). What has arrived is kept: give the same "
        "command again to go on."
    )


def _receive(job: Fetching, file: RemoteFile, part: Path) -> None:
    """Append what one answer brings; an answer that begins at the start replaces the part."""
    with _answer(job, file, part) as answer:
        have = _size(part)
        if have and not _goes_on(answer, have):
            _drop(job, part)
            have = 0
        _check_length(answer, file.size - have)
        with output_errors(part), part.open("ab") as handle:
            for chunk in _chunks(job, answer, file.size - have):
                handle.write(chunk)
                job.on_bytes(len(chunk))
            handle.flush()
            os.fsync(handle.fileno())
    if _size(part) < file.size:
        raise Transient("the connection ended early")


def _answer(job: Fetching, file: RemoteFile, part: Path) -> http.client.HTTPResponse:
    """Ask for what is missing; a server that knows no such range has to begin again."""
    try:
        return job.connection.open(job.address(file), _size(part))
    except HubAnswer as answer:
        if answer.status != http.client.REQUESTED_RANGE_NOT_SATISFIABLE or not _size(part):
            raise
    _drop(job, part)
    raise Transient("the server could not go on where the last try ended")


def _goes_on(answer: http.client.HTTPResponse, start: int) -> bool:
    told = answer.headers.get("Content-Range", "")
    return answer.status == http.client.PARTIAL_CONTENT and told.startswith(f"bytes {start}-")


def _check_length(answer: http.client.HTTPResponse, expected: int) -> None:
    """Refuse another document than the file: a login page, say."""
    told = answer.headers.get("Content-Length")
    if told is not None and told.isdigit() and int(told) != expected:
        raise Transient(f"{int(told):,} bytes were announced, {expected:,} were expected")


def _chunks(job: Fetching, answer: http.client.HTTPResponse, limit: int) -> Iterator[bytes]:
    """Yield what arrives, at most `limit` bytes; trouble on the way is `Transient`."""
    while limit > 0:
        if job.stop.is_set():
            raise Stopped
        try:
            chunk = answer.read1(min(CHUNK_BYTES, limit))
        except (OSError, http.client.HTTPException) as error:
            raise Transient(str(error) or type(error).__name__) from None
        if not chunk:
            return
        limit -= len(chunk)
        yield chunk


def _drop(job: Fetching, part: Path) -> None:
    """Forget what has arrived of a file."""
    job.on_bytes(-_size(part))
    part.unlink(missing_ok=True)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

"""A model from a hub to a folder: whole and verified, or not at all.

Files arrive in a hidden folder inside the target and are compared with the hub's checksums there.
Only when all of them are right do they get their names, so a folder never holds half a model, and a
download that broke off goes on where it was.
"""

import hashlib
import logging
import os
import shutil
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from pathlib import Path

from danlu.errors import DownloadError, OutputError, bullet_list
from danlu.files import only_run, output_errors, size_text
from danlu.hub.cache import cached_folder
from danlu.hub.choosing import choose
from danlu.hub.connection import Connection, HubAnswer, Transient
from danlu.hub.fetching import Fetching, Stopped, fetch
from danlu.hub.listing import Listing, RemoteFile, is_intact
from danlu.hub.manifest import Manifest, read_manifest
from danlu.hub.names import STAGING, HubName, check_file_names
from danlu.hub.sources import Source, list_model, refusal, source_named
from danlu.progress import Progress, working

logger = logging.getLogger(__name__)

AT_ONCE = 4
LIST_ATTEMPTS = 4
SPARE_BYTES = 64 * 2**20
SECONDS_BETWEEN_NOTES = 0.5


@dataclass(frozen=True)
class Downloaded:
    """What a download did.

    Attributes:
        folder: where the model is.
        manifest: what it is.
        fetched_bytes: what came over the network.
        kept_files: files that were there and right already.
        unverified: files for which the hub gives no checksum; their size was compared.
    """

    folder: Path
    manifest: Manifest
    fetched_bytes: int
    kept_files: int
    unverified: tuple[str, ...]


def download(
    name: HubName,
    out: Path | None,
    token: str | None,
    everything: bool,
    progress: Progress,
    pause: Callable[[float], object] | None = None,
) -> Downloaded:
    """Fetch a model, or what is missing of it, and verify all of it.

    Args:
        name: the model; without a source it is Hugging Face's.
        out: the folder; None: Danlu's own (see `danlu.hub.cache`).
        token: of the hub; None: as the environment says.
        everything: also fetch what Danlu does not read (never code).
        progress: of the bytes.
        pause: waits for seconds before another try; None: really.

    Raises:
        DownloadError: if the hub does not have it, refuses it, or cannot be reached.
        OutputError: if the folder holds something else, is in use, or the disk is too small.
        CheckpointError: if the folder's record of an earlier download is damaged.
    """
    source = source_named(name.source or "hf")
    stop = threading.Event()
    pause = pause or stop.wait
    secret = source.secret(source.token() if token is None else token)
    connection = Connection(source.endpoint(), secret)
    revision = name.revision or source.main_revision
    listing = _reached(source, connection, name.model_id, revision, pause)
    check_file_names([file.path for file in listing.files], f"'{name.model_id}'")
    folder = out or cached_folder(source.name, name.model_id, revision)
    session = _Session(source, connection, listing, folder, stop, pause)
    with only_run(folder):
        return session.run(everything, progress)


def _reached(
    source: Source,
    connection: Connection,
    model_id: str,
    revision: str,
    pause: Callable[[float], object],
) -> Listing:
    """Return the list of files; try again where the hub is busy, not where nothing answers."""
    for attempt in range(1, LIST_ATTEMPTS + 1):
        try:
            return list_model(source, connection, model_id, revision)
        except Transient as trouble:
            last = trouble
            if trouble.unreachable or attempt == LIST_ATTEMPTS:
                break
            pause(max(trouble.retry_after_s, 2.0 ** (attempt - 1)))
    other = "--source modelscope" if source.name == "hf" else "--source hf"
    variable = "HF_ENDPOINT" if source.name == "hf" else "MODELSCOPE_DOMAIN"
    raise DownloadError(
        f"{connection.endpoint} cannot be reached: {last}. Expected a connection to "
        f"{source.title}; nothing was changed. Check the network (or a proxy in https_proxy), set "
        f"{variable} to a mirror, or try {other}."
    )


@dataclass(frozen=True)
class _Session:
    """One download into one folder, which nobody else uses."""

    source: Source
    connection: Connection
    listing: Listing
    folder: Path
    stop: threading.Event
    pause: Callable[[float], object]

    def run(self, everything: bool, progress: Progress) -> Downloaded:
        choice = choose(self.listing.files, everything)
        if not choice.taken:
            raise DownloadError(
                f"'{self.listing.model_id}' has no file that a model is made of: "
                f"{len(choice.left_out)} files, all left out. Take them with --all."
            )
        old = read_manifest(self.folder)
        new = self._manifest(choice.taken, choice.left_out)
        self._check_room(choice.taken, old)
        missing = self._missing(choice.taken, old, progress)
        if old is None or not old.complete:
            self._write_unfinished(old, new)
        fetched = self._fetch_all(missing, progress)
        self._put_in_place(missing, old, new)
        unverified = tuple(file.path for file in choice.taken if not file.algorithm)
        kept = len(choice.taken) - len(missing)
        return Downloaded(self.folder, new, fetched, kept, unverified)

    def _manifest(self, files: tuple[RemoteFile, ...], left_out: Mapping[str, str]) -> Manifest:
        listing = self.listing
        return Manifest(
            listing.source,
            listing.model_id,
            listing.revision,
            listing.commit,
            complete=True,
            files=files,
            left_out=left_out,
        )

    def _check_room(self, files: Sequence[RemoteFile], old: Manifest | None) -> None:
        """Refuse a folder of something else, and a disk that is too small."""
        if old is not None and not old.is_of(self.listing):
            raise OutputError(
                f"'{self.folder}' holds '{old.model_id}' of {old.source}; nothing was changed. "
                "Choose another folder with --out."
            )
        there = {file.path: file for file in old.files} if old else {}
        kept = [file for file in files if there.get(file.path) == file and old and old.complete]
        needed = sum(file.size for file in files) - sum(file.size for file in kept)
        staged = sum(path.stat().st_size for path in (self.folder / STAGING).glob("*"))
        free = shutil.disk_usage(self.folder).free
        if needed - staged + SPARE_BYTES > free:
            raise OutputError(
                f"'{self.listing.model_id}' needs {size_text(needed - staged)} more on the disk of "
                f"'{self.folder}', which has {size_text(free)} free. Nothing was fetched. Free "
                "some space, or choose another folder with --out."
            )

    def _missing(
        self, files: Sequence[RemoteFile], old: Manifest | None, progress: Progress
    ) -> list[RemoteFile]:
        """Return the files that are not in place and right; refuse to overwrite foreign ones."""
        present = [file for file in files if (self.folder / file.path).exists()]
        with working(progress, "verify", sum(file.size for file in present)):
            right = [f for f in present if is_intact(self.folder / f.path, f, progress.advance)]
        ours = {file.path for file in old.files} if old else set()
        foreign = [file.path for file in present if file not in right and file.path not in ours]
        if foreign:
            raise OutputError(
                f"'{self.folder}' holds other files of these names:{bullet_list(foreign)}\n"
                "Nothing was overwritten. Choose another folder with --out, or move them away."
            )
        for file in present:
            if file not in right and old and old.complete and file in old.files:
                logger.warning("%s is damaged; it is fetched again.", file.path)
        return [file for file in files if file not in right]

    def _staged(self, file: RemoteFile) -> Path:
        """Return where a file arrives: by its name and content, so that changes do not mix."""
        key = hashlib.sha256(f"{file.path}\0{file.size}\0{file.digest}".encode()).hexdigest()
        return self.folder / STAGING / key[:40]

    def _fetch_all(self, files: Sequence[RemoteFile], progress: Progress) -> int:
        """Fetch the files, several at once, and return how many bytes came."""
        staging = self.folder / STAGING
        with output_errors(staging):
            staging.mkdir(parents=True, exist_ok=True)
        parts = [self._staged(file) for file in files]
        have = sum(part.stat().st_size for part in parts if part.exists())
        total = sum(file.size for file in files) - have
        with working(progress, f"fetch {self.listing.model_id}", total):
            meter = _Meter(progress, total)
            job = Fetching(self.connection, self._address, meter.add, self.stop, self.pause)
            self._in_threads(job, files)
        return meter.received

    def _address(self, file: RemoteFile) -> str:
        return self.source.file_path(self.listing, file)

    def _in_threads(self, job: Fetching, files: Sequence[RemoteFile]) -> None:
        """Run `fetch` for each file; the first trouble, or Ctrl-C, ends all of them."""
        pool = ThreadPoolExecutor(AT_ONCE)
        ordered = sorted(files, key=lambda file: file.size)  # small ones first: refusals come early
        try:
            futures = [pool.submit(fetch, job, file, self._staged(file)) for file in ordered]
            done, _ = wait(futures, return_when=FIRST_EXCEPTION)
            self._raise_first(done)
        finally:
            self.stop.set()
            pool.shutdown(cancel_futures=True)

    def _raise_first(self, done: set["Future[None]"]) -> None:
        errors = [error for future in done if (error := future.exception())]
        for error in errors:
            if isinstance(error, HubAnswer):
                listing = self.listing
                raise refusal(
                    self.source, self.connection, listing.model_id, listing.revision, error
                ) from None
            if not isinstance(error, Stopped):
                raise error

    def _put_in_place(
        self, files: Sequence[RemoteFile], old: Manifest | None, new: Manifest
    ) -> None:
        """Give every file its name; what an older revision had and this one has not is removed."""
        gone = _no_longer_there(old, new)
        with output_errors(self.folder):
            if files or gone:
                self._write_unfinished(old, new)
            for file in files:
                target = self.folder / file.path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(self._staged(file), target)
            for file in gone:
                if is_intact(self.folder / file.path, file):
                    (self.folder / file.path).unlink()
            shutil.rmtree(self.folder / STAGING)
            new.write(self.folder, complete=True)

    def _write_unfinished(self, old: Manifest | None, new: Manifest) -> None:
        """Say that the folder is not whole, and which files in it are ours, old ones included."""
        ours = (*new.files, *_no_longer_there(old, new))
        replace(new, files=ours).write(self.folder, complete=False)


def _no_longer_there(old: Manifest | None, new: Manifest) -> list[RemoteFile]:
    """Return the files of an older revision that the newer one does not have."""
    kept = {file.path for file in new.files}
    return [file for file in old.files if file.path not in kept] if old else []


class _Meter:
    """Counts bytes from several threads and says how fast they come."""

    def __init__(self, progress: Progress, total: int) -> None:
        self.received = 0
        self._progress = progress
        self._total = total
        self._counted = 0
        self._pending = 0
        self._began = self._told = time.monotonic()
        self._lock = threading.Lock()

    def add(self, num_bytes: int) -> None:
        """Count bytes; negative ones have to come again."""
        with self._lock:
            self._pending += num_bytes
            self.received += max(num_bytes, 0)
            now = time.monotonic()
            if (
                now - self._told >= SECONDS_BETWEEN_NOTES
                or self._counted + self._pending >= self._total
            ):
                self._tell(now)

    def _tell(self, now: float) -> None:
        self._counted += self._pending
        speed = self.received / max(now - self._began, 1e-3)
        amount = f"{size_text(max(self._counted, 0))} of {size_text(self._total)}"
        self._progress.advance(self._pending, f"{amount}, {size_text(int(speed))}/s")
        self._pending, self._told = 0, now

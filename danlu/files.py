"""Files and folders that are never half written: atomic writes, output folders, one run a folder.

A write goes to a temporary neighbour, is flushed to the disk and then renamed over its target, so a
reader (or a kill -9) sees the old content or the new, never a part. Operating-system errors become
`OutputError` with the path and what to do about it.
"""

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from danlu.errors import OutputError

PARTIAL = ".partial"

_UMASK = os.umask(0o022)
os.umask(_UMASK)

_ADVICE = {
    errno.ENOSPC: "The disk is full. Free some space; what was finished before is intact.",
    errno.EDQUOT: "The disk quota is used up. Free some space; what was finished is intact.",
    errno.EROFS: "The file system is read-only. Choose another folder.",
    errno.EACCES: "There is no permission to write there. Choose another folder.",
    errno.EPERM: "There is no permission to write there. Choose another folder.",
    errno.ENOTDIR: "A part of the path is a file. Choose another folder.",
}


@contextmanager
def output_errors(path: Path) -> Iterator[None]:
    """Turn operating-system errors raised inside into `OutputError` about `path`."""
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "Choose another folder.")
        raise OutputError(f"Cannot write '{path}': {error.strerror or error}. {advice}") from error


@contextmanager
def atomic_file(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; it replaces `path` on success, else it is gone.

    Raises:
        OutputError: if `path` cannot be written, or is a device or a pipe, which would be replaced.
    """
    if path.exists() and not path.is_file() and not path.is_dir():
        raise OutputError(f"The output '{path}' is {_kind(path)}; expected a file. Choose another.")
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            yield temporary
            temporary.chmod(0o666 & ~_UMASK)  # some writers choose 600
            _flush(temporary)
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        _flush(path.parent)


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `path` that becomes `path` on success.

    A link stays one: what it points to is written.

    Raises:
        OutputError: if `path` exists with content and `replace` is false, or cannot be written.
    """
    refuse_existing(path, replace=replace)
    path = path.resolve() if path.is_symlink() else path
    temporary = path.with_name(f".{path.name}{PARTIAL}")
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            yield temporary
            finish_folder(temporary, path)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def finish_folder(temporary: Path, path: Path) -> None:
    """Put the folder `temporary`, with all its files on the disk, in the place of `path`."""
    for file in temporary.rglob("*"):
        _flush(file)
    _swap(temporary, path)
    _flush(path.parent)


def _swap(temporary: Path, path: Path) -> None:
    """Put `temporary` in the place of `path`; an older folder is removed only afterwards."""
    old = path.with_name(f".{path.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if path.exists():
        os.replace(path, old)
    os.replace(temporary, path)
    shutil.rmtree(old, ignore_errors=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def parse_json(text: str | bytes) -> Any:
    """Return what a JSON text says.

    Raises:
        ValueError: if it is none, or is nested too deeply to be read.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply to be read") from None


def write_text(path: Path, text: str) -> None:
    """Write `text` as UTF-8, atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as readable JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def refuse_existing(path: Path, *, replace: bool = False) -> None:
    """Raise `OutputError` if `path` is no folder, or one with content, unless `replace`."""
    with output_errors(path):
        is_there = path.exists()
    if is_there and not path.is_dir():
        raise OutputError(
            f"The output '{path}' is {_kind(path)}; expected a folder that can be made."
        )
    if not replace and path.is_dir() and any(path.iterdir()):
        raise OutputError(
            f"The output folder '{path}' exists and is not empty. Nothing was overwritten. "
            "Choose another folder, or remove this one."
        )


def _kind(path: Path) -> str:
    return "a file" if path.is_file() else "a device or a pipe"


@contextmanager
def only_run(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; a second run in the same folder is refused.

    The lock belongs to the process, so it ends with it however it ends. A folder, or its file
    ``.lock``, that was made for a run which then could not begin is gone afterwards.
    """
    lock = folder / ".lock"
    with output_errors(folder):
        is_new, has_lock = not folder.exists(), lock.exists()
        folder.mkdir(parents=True, exist_ok=True)
    with _locked(lock, folder):
        try:
            yield
        except BaseException:
            if not has_lock:
                lock.unlink(missing_ok=True)
            if is_new:
                with suppress(OSError):  # there is something in it
                    folder.rmdir()
            raise


@contextmanager
def only_holder(path: Path) -> Iterator[None]:
    """Hold the lock of a folder that is still to be made; the lock lies beside it."""
    with output_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with _locked(path.with_name(f".{path.name}.lock"), path):
        yield


@contextmanager
def _locked(lock: Path, folder: Path) -> Iterator[None]:
    with output_errors(folder):
        handle = lock.open("w")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if not lock.exists() or not os.path.samestat(os.fstat(handle.fileno()), lock.stat()):
                raise BlockingIOError  # the other's run failed just now, and took its lock away
        except BlockingIOError:
            raise OutputError(
                f"Another run is at work in '{folder}'. Wait for its end, or choose another folder."
            ) from None
        yield


def size_text(num_bytes: int) -> str:
    """Return bytes as a person reads them: 14.2 MB."""
    size = float(num_bytes)
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"

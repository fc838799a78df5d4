"""What a hub says about a model: its files with sizes and checksums."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 2**20


@dataclass(frozen=True)
class RemoteFile:
    """A file on a hub.

    Attributes:
        path: inside the model's folder, with "/".
        size: in bytes.
        algorithm: of the checksum: "sha256", "git-sha1" (of a git blob), or "" where the hub
            gives none.
        digest: the checksum in hexadecimal.
    """

    path: str
    size: int
    algorithm: str = ""
    digest: str = ""


@dataclass(frozen=True)
class Listing:
    """The files of one revision of a model.

    Attributes:
        source: name of the hub.
        model_id: of the model.
        revision: as the user named it.
        commit: what the revision stands for now; the revision itself where the hub does not tell.
        files: all files.
    """

    source: str
    model_id: str
    revision: str
    commit: str
    files: tuple[RemoteFile, ...]


def file_digest(
    path: Path, algorithm: str, on_bytes: Callable[[int], None] = lambda done: None
) -> str:
    """Return the checksum of a file.

    Args:
        path: the file.
        algorithm: "sha256", or "git-sha1": the name git gives the content, which is the SHA-1 of
            "blob", the size and the content.
        on_bytes: is told how many bytes were read, as they are.
    """
    if algorithm == "git-sha1":
        digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    else:
        digest = hashlib.sha256()
    with path.open("rb") as handle:
        while chunk := handle.read(CHUNK_BYTES):
            digest.update(chunk)
            on_bytes(len(chunk))
    return digest.hexdigest()


def is_intact(
    path: Path, file: RemoteFile, on_bytes: Callable[[int], None] = lambda done: None
) -> bool:
    """Return whether `path` holds exactly what the hub has; the size alone where no checksum is."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    return not file.algorithm or file_digest(path, file.algorithm, on_bytes) == file.digest

"""`danlu-download.json`: what a downloaded folder holds, where it is from, and whether it is whole.

It is written when a download begins, with `complete` false, and says true only when every file is
in its place and was compared with the hub's checksum.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from danlu.errors import CheckpointError
from danlu.files import parse_json, write_json
from danlu.hub.listing import Listing, RemoteFile
from danlu.hub.names import MANIFEST


@dataclass(frozen=True)
class Manifest:
    """What a folder was downloaded as.

    Attributes:
        source: the hub.
        model_id: the model.
        revision: as it was asked for.
        commit: what that stood for.
        complete: whether every file is in its place.
        files: the files that belong to it.
        left_out: what was not fetched, with the reason.
    """

    source: str
    model_id: str
    revision: str
    commit: str
    complete: bool
    files: tuple[RemoteFile, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)

    def is_of(self, listing: Listing) -> bool:
        """Return whether it is the same model of the same hub."""
        return (self.source, self.model_id) == (listing.source, listing.model_id)

    def write(self, folder: Path, *, complete: bool) -> None:
        """Write it into `folder`."""
        write_json(folder / MANIFEST, asdict(replace(self, complete=complete)))


def read_manifest(folder: Path) -> Manifest | None:
    """Return the manifest of a folder; None where there is none.

    Raises:
        CheckpointError: if it is damaged.
    """
    path = folder / MANIFEST
    try:
        values = parse_json(path.read_text(encoding="utf-8"))
        files = tuple(RemoteFile(**file) for file in values.pop("files"))
        return Manifest(files=files, **values)
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, KeyError, AttributeError, OSError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read ({error}). Expected what `danlu download` wrote; remove the "
            "file, or choose another folder."
        ) from error

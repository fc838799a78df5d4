"""A model from a hub: what was fetched, and what was not and why."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from danlu.errors import DownloadError
from danlu.files import size_text
from danlu.hub import HubName, download, parse_name
from danlu.hub.downloading import Downloaded
from danlu.progress import Progress


@dataclass(frozen=True)
class DownloadReport:
    """What a download did, to print."""

    done: Downloaded

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        done, manifest = self.done, self.done.manifest
        total = sum(file.size for file in manifest.files)
        commit = f" = {manifest.commit[:12]}" if manifest.commit != manifest.revision else ""
        fetched = len(manifest.files) - done.kept_files
        rows = [
            ("model", f"{manifest.model_id} ({manifest.source}, {manifest.revision}{commit})"),
            ("files", f"{len(manifest.files)}, {size_text(total)}"),
            ("fetched", f"{fetched} files, {size_text(done.fetched_bytes)}"),
            ("verified", _verified_text(done)),
        ]
        rows += [("left out", text) for text in _left_out_texts(manifest.left_out)]
        return [*rows, ("folder", str(done.folder))]

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        manifest = self.done.manifest
        return {
            "source": manifest.source,
            "model_id": manifest.model_id,
            "revision": manifest.revision,
            "commit": manifest.commit,
            "folder": str(self.done.folder),
            "files": {file.path: file.size for file in manifest.files},
            "left_out": dict(manifest.left_out),
            "fetched_bytes": self.done.fetched_bytes,
            "unverified": list(self.done.unverified),
        }


def _verified_text(done: Downloaded) -> str:
    if not done.unverified:
        return "every file equals the hub's checksum"
    names = ", ".join(done.unverified[:5])
    return f"all but {len(done.unverified)} without a checksum on the hub (sizes fit): {names}"


def _left_out_texts(left_out: dict[str, str] | Any) -> list[str]:
    """Return one line for each reason, with a few of the files."""
    counts = Counter(left_out.values())
    return [
        f"{count} ({reason}): {_some([path for path, why in left_out.items() if why == reason])}"
        for reason, count in counts.most_common()
    ]


def _some(paths: list[str], limit: int = 4) -> str:
    more = f", and {len(paths) - limit} more" if len(paths) > limit else ""
    return ", ".join(paths[:limit]) + more


def fetch_model(
    model: str,
    source: str | None,
    revision: str | None,
    out: Path | None,
    everything: bool,
    token_file: Path | None,
    progress: Progress,
) -> DownloadReport:
    """Fetch a model from a hub into a folder, whole and verified.

    Args:
        model: its id, perhaps with its hub in front and its revision behind.
        source: "hf" or "modelscope"; None: as `model` says, else hf.
        revision: branch, tag or commit; None: as `model` says, else the main one.
        out: the folder; None: Danlu's own, where the id alone finds it again.
        everything: also fetch what Danlu does not read; never code.
        token_file: file with the hub's token; None: as the environment says.
        progress: of the bytes.

    Raises:
        DownloadError: if it cannot be had.
        OutputError: if it cannot be stored.
    """
    named = parse_name(model)
    chosen = HubName(
        named.model_id,
        _agreed("hub", named.source, source),
        _agreed("revision", named.revision, revision),
    )
    token = None if token_file is None else read_token(token_file)
    return DownloadReport(download(parse_name(str(chosen)), out, token, everything, progress))


def _agreed(what: str, in_name: str | None, flag: str | None) -> str | None:
    if in_name and flag and in_name != flag:
        raise DownloadError(
            f"Two {what}s are named: {in_name!r} with the id, {flag!r} as a flag. Keep one."
        )
    return in_name or flag


def read_token(path: Path) -> str:
    """Return the token in a file: one line.

    Raises:
        DownloadError: if there is no such file, or it holds anything else.
    """
    try:
        token = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise DownloadError(
            f"The token file '{path}' cannot be read ({error}). Expected a text file with the "
            "hub's token in one line."
        ) from error
    if not token or not token.isascii() or any(c.isspace() for c in token):
        raise DownloadError(
            f"'{path}' holds no token: expected one line of letters and digits, found "
            f"{len(token.split())} words."
        )
    return token

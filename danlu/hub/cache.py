"""Where downloaded models are kept, and how a name becomes a folder.

    DANLU_HOME (default ~/.cache/danlu) / models / SOURCE / OWNER / NAME / REVISION

Nothing here reaches for the network: only `danlu download` does.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, unquote

from danlu.errors import CheckpointError, did_you_mean
from danlu.hub.manifest import Manifest, read_manifest
from danlu.hub.names import MANIFEST, SOURCES, HubName, is_name, parse_name
from danlu.hub.sources import source_named


def models_folder() -> Path:
    """Return the folder of all downloaded models."""
    home = os.environ.get("DANLU_HOME")
    return (Path(home).expanduser() if home else Path.home() / ".cache" / "danlu") / "models"


def cached_folder(source: str, model_id: str, revision: str) -> Path:
    """Return where a revision of a model is kept."""
    return models_folder() / source / model_id / quote(revision, safe="")


def resolve(path_or_id: str | Path) -> Path:
    """Return the folder of a model: an existing path as it is, a downloaded id's folder.

    Args:
        path_or_id: a path; or the id of a downloaded model, such as "Qwen/Qwen-7B", perhaps with
            its hub in front ("hf:", "modelscope:") and a revision behind ("@main").

    Raises:
        CheckpointError: if there is no such folder or download, or a download is unfinished.
    """
    path = Path(path_or_id).expanduser()
    if path.exists():
        return _finished(path)
    if not is_name(str(path_or_id)):
        raise CheckpointError(
            f"'{path_or_id}' is not a folder, and no id of a model. Expected the folder of a "
            "checkpoint, or the id of a downloaded model, such as Qwen/Qwen-7B."
        )
    return _downloaded(parse_name(str(path_or_id)))


def _finished(path: Path) -> Path:
    """Return the folder unless it is a download that was not finished."""
    manifest = read_manifest(path) if path.is_dir() else None
    if manifest is not None and not manifest.complete:
        raise CheckpointError(
            f"'{path}' is an unfinished download of '{manifest.model_id}'. Finish it with: "
            f"{_command(manifest)} --out {path}"
        )
    return path


def _command(manifest: Manifest) -> str:
    return (
        f"danlu download {manifest.model_id} --source {manifest.source} "
        f"--revision {manifest.revision}"
    )


def _downloaded(name: HubName) -> Path:
    """Return the folder of a downloaded model; the first hub that has it, its main revision."""
    unfinished: list[str] = []
    for source in [name.source] if name.source else SOURCES:
        folders = _revisions(source, name.model_id)
        wanted = name.revision or _preferred(source, list(folders), name)
        folder = folders.get(wanted)
        manifest = read_manifest(folder) if folder else None
        if folder and manifest and _is_whole(folder, manifest):
            return folder
        if manifest:
            unfinished.append(_command(manifest))
    if unfinished:
        raise CheckpointError(
            f"The download of '{name}' is unfinished. Finish it with: {unfinished[0]}"
        )
    raise CheckpointError(
        f"'{name}' is not a folder, and no model of that id was downloaded."
        f"{did_you_mean(name.model_id, _downloaded_ids())} Expected a path, or an id after: "
        f"danlu download {_as_argument(name)}"
    )


def _as_argument(name: HubName) -> str:
    source = f" --source {name.source}" if name.source else ""
    return f"{name.model_id}{source}" + (f" --revision {name.revision}" if name.revision else "")


def _revisions(source: str, model_id: str) -> dict[str, Path]:
    """Return the folders of a model by revision, finished or not."""
    folder = models_folder() / source / model_id
    return {unquote(path.parent.name): path.parent for path in folder.glob(f"*/{MANIFEST}")}


def _preferred(source: str, revisions: list[str], name: HubName) -> str:
    """Return the revision to use where none was named: the main one, or the only one."""
    main = source_named(source).main_revision
    if main in revisions or len(revisions) <= 1:
        return main if main in revisions or not revisions else revisions[0]
    raise CheckpointError(
        f"Several revisions of '{name}' were downloaded. Name one: "
        f"{', '.join(f'{name}@{revision}' for revision in sorted(revisions))}."
    )


def _is_whole(folder: Path, manifest: Manifest) -> bool:
    """Return whether a download is complete and every file is still there, by its size."""
    return manifest.complete and all(
        (folder / file.path).is_file() and (folder / file.path).stat().st_size == file.size
        for file in manifest.files
    )


def _downloaded_ids() -> Iterator[str]:
    for source in SOURCES:
        top = models_folder() / source
        for manifest in top.glob(f"**/{MANIFEST}"):
            yield str(manifest.parent.parent.relative_to(top))

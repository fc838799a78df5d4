"""Where the rows of a source are: a file, a folder's files, part of a file, or the hub.

A folder with parts (`train.json` or `train/*.json`, `dev.json` or `dev/*.json`, as PaddleNLP has
it; `data/train-00000-of-00002.parquet`, as the hub has it) is read for one part, by default
`train`. A folder without parts is read whole. Whatever is not read is named in one log message,
hidden files aside.
"""

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from danlu.config.data import DataSource
from danlu.data.reading.json_rows import DEFAULT_PART
from danlu.data.reading.table_rows import HUB
from danlu.errors import DataError, bullet_list, did_you_mean

EXTENSIONS = (".json", ".jsonl", ".ndjson", ".txt", ".csv", ".tsv", ".parquet")
CALIBRATION = "quant"  # PaddleNLP's quant.json: what to calibrate a quantization with
PART_NAMES = (DEFAULT_PART, "dev", "valid", "validation", "eval", "test", CALIBRATION)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where rows are read from.

    Attributes:
        path: a file; for a data set of the hub, its name.
        part: which of the rows in it, None for all.
        on_hub: is it a data set of the hub?
    """

    path: Path
    part: str | None = None
    on_hub: bool = False


def as_source(source: Path | str | DataSource) -> DataSource:
    """Return a path as the source that it means."""
    return source if isinstance(source, DataSource) else DataSource(path=str(source))


def places_of(source: Path | str | DataSource) -> list[Place]:
    """Return where the rows of a source are, in the order they are read.

    Raises:
        DataError: if there is nothing, or the folder has no such part.
    """
    source = as_source(source)
    name, part = _parted(source)
    if name.startswith(HUB):
        return [Place(Path(name.removeprefix(HUB)), part or DEFAULT_PART, on_hub=True)]
    path = Path(name)
    if path.is_dir():
        return [Place(file) for file in _files_of_folder(path, part)]
    if not path.exists():
        raise DataError(_missing(path))
    if not path.is_file():
        raise DataError(
            f"Cannot read '{path}': it is a pipe or a device. Expected a file or a folder, since "
            "data is read more than once. Write it to a file first."
        )
    return [Place(path, part)]


def data_files(source: Path | str | DataSource) -> list[Path]:
    """Return the local files that a source is read from; none for a data set of the hub."""
    return [place.path for place in places_of(source) if not place.on_hub]


def is_data_file(path: Path) -> bool:
    """Return whether a file of a folder is read, by its ending: `EXTENSIONS`, also with .gz."""
    return Path(path.name.removesuffix(".gz")).suffix in EXTENSIONS


def _parted(source: DataSource) -> tuple[str, str | None]:
    """Return path and part of a source; the part may stand in the path behind a colon."""
    path, _, part = source.path.rpartition(":")
    on_hub = source.path.startswith(HUB) and path != HUB.removesuffix(":")
    if not path or not (on_hub or Path(path).exists()) or Path(source.path).exists():
        return source.path, source.split
    if source.split not in (None, part):
        raise DataError(f"'{source.path}' names the part {part!r}, but split is {source.split!r}.")
    return path, part


def _missing(path: Path) -> str:
    if path.is_symlink():
        return (
            f"Cannot read '{path}': it is a link to {str(path.readlink())!r}, which leads nowhere. "
            "Expected a file or a folder. Mend the link, or name the file itself."
        )
    near = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    on_hub = (
        f" For a data set of the hub, write '{HUB}{path}'."
        if re.fullmatch(r"[\w.-]+/[\w.-]+", str(path)) and not path.suffix
        else ""
    )
    return (
        f"Cannot read '{path}': there is no such file or folder.{did_you_mean(path.name, near)}"
        f" Check the path.{on_hub}"
    )


def _files_of_folder(folder: Path, part: str | None) -> list[Path]:
    found = (file for file in folder.rglob("*") if file.is_file())
    files = sorted(file for file in found if not _is_hidden(file.relative_to(folder)))
    known = [file for file in files if is_data_file(file)]
    parts = {name: _part_files(known, folder, name) for name in {*PART_NAMES, *_given(part)}}
    wanted = part or (DEFAULT_PART if parts[DEFAULT_PART] else None)
    _check_links(folder)
    calibration = parts[CALIBRATION]
    chosen = parts[wanted] if wanted else [file for file in known if file not in calibration]
    if not chosen:
        raise DataError(_nothing_in(folder, part, [name for name in parts if parts[name]]))
    _note_not_read(folder, files, chosen, wanted)
    return chosen


def _check_links(folder: Path) -> None:
    """Raise `DataError` for links that are named as data and lead nowhere."""
    links = [link for link in folder.rglob("*") if link.is_symlink() and not link.exists()]
    wrong = sorted(str(link) for link in links if is_data_file(link))
    if wrong:
        raise DataError(
            f"Links in '{folder}' lead nowhere:{bullet_list(wrong)}\n"
            "Expected links to files. Mend or remove them."
        )


def _is_hidden(path: Path) -> bool:
    return any(name.startswith(".") for name in path.parts)


def _given(part: str | None) -> list[str]:
    return [] if part is None else [part]


def _part_files(files: Sequence[Path], folder: Path, part: str) -> list[Path]:
    """Return the files of a part: in a folder of its name, or named so, as train-00001-of-2."""
    named = re.compile(rf"(data/)?{re.escape(part)}(/.*|[-.][^/]*)")
    return [file for file in files if named.fullmatch(file.relative_to(folder).as_posix())]


def _nothing_in(folder: Path, part: str | None, parts: Sequence[str]) -> str:
    if part is not None:
        there = f"parts: {', '.join(sorted(parts))}" if parts else "no parts"
        hint = did_you_mean(part, parts)
        return f"The folder '{folder}' has no part {part!r}; it has {there}.{hint}"
    return (
        f"The folder '{folder}' has no data file; expected files ending in "
        f"{', '.join(EXTENSIONS)}, plain or with .gz."
    )


def _note_not_read(
    folder: Path, files: Sequence[Path], chosen: Sequence[Path], part: str | None
) -> None:
    read = set(chosen)
    left = [file for file in files if file not in read]
    if not left:
        return
    names = ", ".join(str(file.relative_to(folder)) for file in left[:20])
    more = f" (+{len(left) - 20} more)" if len(left) > 20 else ""
    what = f"the part {part!r} is" if part else f"only {', '.join(EXTENSIONS)} are"
    _log.warning("Not read in '%s', since %s: %s%s", folder, what, names, more)

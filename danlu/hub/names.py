"""Names that come from a user or from a hub, checked before they become paths or addresses."""

import re
from collections import Counter
from collections.abc import Sequence, Set
from dataclasses import dataclass

from danlu.errors import DownloadError, bullet_list, did_you_mean

SOURCES = ("hf", "modelscope")
MANIFEST = "danlu-download.json"
STAGING = ".danlu-download"

_ID = re.compile(r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?")
_REVISION = re.compile(r"[\w./+-]+")
MAX_NAME_BYTES = 255


@dataclass(frozen=True)
class HubName:
    """A model on a hub.

    Attributes:
        model_id: such as "Qwen/Qwen-7B".
        source: "hf", "modelscope", or None where the user did not say.
        revision: branch, tag or commit; None where the user did not say.
    """

    model_id: str
    source: str | None = None
    revision: str | None = None

    def __str__(self) -> str:
        """Return the name as a user writes it."""
        source = f"{self.source}:" if self.source else ""
        return f"{source}{self.model_id}" + (f"@{self.revision}" if self.revision else "")


def parse_name(text: str) -> HubName:
    """Return the model that `ID`, `hf:ID`, `modelscope:ID`, each perhaps with `@REVISION`, names.

    Raises:
        DownloadError: if it is no name of a model.
    """
    prefix, colon, rest = text.partition(":")
    source = prefix if colon else None
    if source is not None and source not in SOURCES:
        raise DownloadError(
            f"There is no hub {source!r} (in {text!r}).{did_you_mean(source, SOURCES)} "
            f"Expected one of: {', '.join(SOURCES)}."
        )
    model_id, at, revision = (rest if colon else text).partition("@")
    if not _is_id(model_id):
        raise DownloadError(
            f"{text!r} is no id of a model. Expected OWNER/NAME, such as 'Qwen/Qwen-7B', as the "
            "page of the model shows it."
        )
    return HubName(model_id, source, checked_revision(revision) if at else None)


def is_name(text: str) -> bool:
    """Return whether `text` could be the id of a model on a hub."""
    try:
        parse_name(text)
    except DownloadError:
        return False
    return True


def _is_id(text: str) -> bool:
    return bool(_ID.fullmatch(text)) and ".." not in text and len(text) < MAX_NAME_BYTES


def checked_revision(revision: str) -> str:
    """Return the revision, or raise a `DownloadError` if it cannot be one."""
    parts = revision.split("/")
    if not _REVISION.fullmatch(revision) or any(part in ("", ".", "..") for part in parts):
        raise DownloadError(
            f"{revision!r} is no revision. Expected a branch, a tag or a commit, such as 'main'."
        )
    return revision


def check_file_names(names: Sequence[str], origin: str) -> None:
    """Refuse names that would leave the folder, hide in it, or meet each other.

    Raises:
        DownloadError: naming every one.
    """
    wrong = [f"{name!r}: {why}" for name in names if (why := _wrong(name))]
    wrong += [f"{name!r} is listed twice" for name, count in Counter(names).items() if count > 1]
    known = {name.casefold() for name in names}
    wrong += [
        f"{name!r}: a file has the name of its folder" for name in names if _meets(name, known)
    ]
    if wrong:
        raise DownloadError(
            f"{origin} lists files that cannot be stored safely:{bullet_list(wrong)}\n"
            "Expected paths inside the model's folder. Nothing was written; do not use this model."
        )


def _meets(name: str, known: Set[str]) -> bool:
    """Return whether a folder of `name` is the name of a file."""
    parts = name.casefold().split("/")
    return any("/".join(parts[:end]) in known for end in range(1, len(parts)))


def _wrong(name: str) -> str:
    """Return what is wrong with the name of a file on a hub; nothing for a good one."""
    parts = name.split("/")
    if not name or name.startswith("/") or "\\" in name or re.match(r"[A-Za-z]:", name):
        return "is not a relative path"
    if any(part in ("", ".", "..") for part in parts):
        return "leaves the folder"
    if any(ord(character) < 32 or ord(character) == 127 for character in name):
        return "holds control characters"
    if any(len(part.encode("utf-8", "replace")) > MAX_NAME_BYTES for part in parts):
        return f"is longer than {MAX_NAME_BYTES} bytes"
    if parts[0] in (MANIFEST, STAGING, ".lock"):
        return "is a name that Danlu uses itself"
    return ""

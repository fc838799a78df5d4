"""A draft to a new run file."""

from pathlib import Path

from danlu.commands.migrate.draft import Draft
from danlu.errors import OutputError
from danlu.files import write_text


def write_draft(draft: Draft, path: Path) -> None:
    """Write the run file.

    Raises:
        OutputError: if the file exists or cannot be written.
    """
    if path.exists():
        raise OutputError(f"'{path}' exists; nothing was overwritten. Choose another name.")
    write_text(path, draft.text())

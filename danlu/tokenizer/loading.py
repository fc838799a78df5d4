"""A folder to a tokenizer. Only data files are read; nothing in the folder is executed."""

from pathlib import Path

from danlu.errors import TokenizerError
from danlu.tokenizer.base import Tokenizer
from danlu.tokenizer.kinds import kinds
from danlu.tokenizer.model import TokenizerFolder
from danlu.tokenizer.special import read_settings


def load_tokenizer(path: str | Path, family: str | None = None) -> Tokenizer:
    """Open the tokenizer in a folder, with its control tokens and chat template.

    Args:
        path: the folder.
        family: the model family, for kinds of files that do not tell it themselves.

    Raises:
        TokenizerError: if there is no folder or no tokenizer in it, or a file in it is wrong.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise TokenizerError(f"The tokenizer folder '{folder}' {what}; expected a folder.")
    opened = TokenizerFolder(folder, read_settings(folder), family)
    for kind in kinds():
        if kind.claims(opened):
            model = kind.open_model(opened)
            return Tokenizer(model, opened.settings)
    looked_for = ", ".join(name for kind in kinds() for name in kind.FILES)
    found = sorted(entry.name for entry in folder.iterdir())
    raise TokenizerError(
        f"There is no tokenizer in '{folder}'. Looked for: {looked_for} (a sentencepiece model). "
        f"Found: {', '.join(found[:10]) or 'nothing'}. Copy the tokenizer files of the model there."
    )

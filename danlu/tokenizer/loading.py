"""A folder to a tokenizer. Only data files are read; nothing in the folder is executed."""

from pathlib import Path

from danlu.errors import TokenizerError
from danlu.tokenizer.base import Tokenizer
from danlu.tokenizer.kinds import kinds
from danlu.tokenizer.model import TokenizerFolder
from danlu.tokenizer.special import read_settings


def load_tokenizer(
    path: str | Path, family: str | None = None, chat_format: str | None = None
) -> Tokenizer:
    """Open the tokenizer in a folder, with its control tokens and chat template.

    Args:
        path: the folder.
        family: the model family or the name of its tokenizer, for kinds of files that do not tell
            it themselves.
        chat_format: a built-in format, used where the folder has no chat template of its own.

    Raises:
        TokenizerError: if there is no folder or no tokenizer in it, a file in it is wrong, or
            there is no such chat format.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "does not exist"
        raise TokenizerError(f"The tokenizer folder '{folder}' {what}; expected a folder.")
    opened = TokenizerFolder(folder, read_settings(folder, family), family)
    for kind in kinds():
        if kind.claims(opened):
            tokenizer = Tokenizer(kind.open_model(opened), opened.settings)
            if chat_format is None or tokenizer.chat_format is not None:
                return tokenizer
            return tokenizer.with_chat_format(chat_format)
    looked_for = ", ".join(dict.fromkeys(name for kind in kinds() for name in kind.FILES))
    found = sorted(entry.name for entry in folder.iterdir())
    raise TokenizerError(
        f"There is no tokenizer in '{folder}'. Looked for: {looked_for}. "
        f"Found: {', '.join(found[:10]) or 'nothing'}. Copy the tokenizer files of the model there."
    )

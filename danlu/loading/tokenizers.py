"""The tokenizer of a checkpoint: config.json tells the family, the family its chat format."""

from pathlib import Path

from danlu.errors import TokenizerError, UnsupportedModelError
from danlu.hub import resolve
from danlu.loading.building import family_of_folder, read_json
from danlu.models.family import discover, family_name
from danlu.tokenizer import Tokenizer
from danlu.tokenizer import load_tokenizer as open_tokenizer


def load_tokenizer(path: str | Path, family: str | None = None) -> Tokenizer:
    """Open the tokenizer of a checkpoint or of a folder of its own, with its chat format.

    A folder without a chat template gets the built-in format of its family, if that has one.

    Args:
        path: a folder, or the id of a downloaded model.
        family: the model family, where config.json does not tell it (or is not there).

    Raises:
        TokenizerError: if there is no tokenizer, or a file of it is wrong.
        ConfigError: if there is no such family.
    """
    folder = resolve(path)
    config = folder / "config.json"
    values = read_json(config) if config.is_file() else {}
    name = _family(folder, values, family)
    chat_format = discover()[name].chat_format(values) if name else None
    return open_tokenizer(folder, name or family, chat_format)


def _family(folder: Path, values: dict[str, object], family: str | None) -> str | None:
    """Return the model family; None for names that only tokenizers have, and for foreign models."""
    if family is not None:
        return family_name(family)
    if not values:
        return None
    try:
        return family_of_folder(folder, values)
    except UnsupportedModelError:
        return None


def check_rows(tokenizer: Tokenizer, num_rows: int, folder: Path) -> None:
    """Check that every token has a row in the embedding.

    Raises:
        TokenizerError: if the tokenizer has more tokens than the embedding has rows.
    """
    if tokenizer.vocab_size > num_rows:
        raise TokenizerError(
            f"The tokenizer of '{folder}' has {tokenizer.vocab_size} tokens, but the model has "
            f"{num_rows} rows in its embedding. Expected a row for each token: put the tokenizer "
            "files of this model there, or give it rows with `danlu tokenizer extend`."
        )

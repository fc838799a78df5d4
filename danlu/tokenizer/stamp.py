"""danlu.json: which tokenizer and template the weights in a folder were trained with.

One token truth: whoever uses the weights checks that they see the same tokens as training did.
"""

from pathlib import Path
from typing import Any

import danlu
from danlu.errors import CheckpointError, TokenizerError
from danlu.files import parse_json, write_json
from danlu.tokenizer.base import Tokenizer

STAMP = "danlu.json"
BROKEN_BOUNDS = "broken_bounds"  # of a quantization that cost more than it was allowed to


def write_stamp(
    folder: Path,
    tokenizer: Tokenizer,
    chat_format: str | None = None,
    family: str | None = None,
) -> None:
    """Write what the weights in `folder` were trained with, to be checked where they are used.

    What else the folder's stamp says, such as the base of an adapter, stays.

    Args:
        folder: of the model or adapter.
        tokenizer: what it was trained with.
        chat_format: the format it was trained with, if not the tokenizer's own.
        family: of the model, for config files that do not tell it.
    """
    known = {} if family is None else {"family": family}
    stamp = {
        **read_stamp(folder),
        "danlu": danlu.__version__,
        "tokenizer_fingerprint": tokenizer.fingerprint(),
        "chat_format": chat_format or tokenizer.chat_format,
        **known,
    }
    write_json(folder / STAMP, stamp)


def stamped_family(folder: Path) -> str | None:
    """Return the family that a folder was written as, if it says so."""
    family: str | None = read_stamp(folder).get("family")
    return family


def read_stamp(folder: Path) -> dict[str, Any]:
    """Return what the stamp of a folder says; nothing if it has none.

    Raises:
        CheckpointError: if it cannot be read.
    """
    path = folder / STAMP
    if not path.is_file():
        return {}
    try:
        stamp = parse_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"'{path}' cannot be read ({error}). Expected the JSON that was written with the "
            "weights; copy it again, or remove it to go without its checks."
        ) from error
    if not isinstance(stamp, dict):
        raise CheckpointError(
            f"'{path}' holds a {type(stamp).__name__}; expected a JSON object. Copy it again, or "
            "remove it to go without its checks."
        )
    return stamp


def broken_bounds(folder: Path) -> list[str]:
    """Return the bounds that the weights in a folder do not keep, as their stamp says it.

    Raises:
        CheckpointError: if the stamp cannot be read.
    """
    listed = read_stamp(folder).get(BROKEN_BOUNDS)
    return [str(bound) for bound in listed] if isinstance(listed, list) else []


def add_to_stamp(folder: Path, **facts: Any) -> None:
    """Write facts into the stamp of a folder, beside what it says already."""
    write_json(folder / STAMP, {**read_stamp(folder), "danlu": danlu.__version__, **facts})


def check_stamp(folder: Path, tokenizer: Tokenizer) -> None:
    """Refuse a model whose tokenizer or template is not the one it was trained with.

    Raises:
        TokenizerError: if the fingerprint differs; a folder without one is not checked.
    """
    trained = read_stamp(folder).get("tokenizer_fingerprint")
    if trained is not None and trained != tokenizer.fingerprint():
        raise TokenizerError(
            f"The tokenizer or chat template in '{folder}' is not the one the model was trained "
            f"with: {STAMP} says {trained}, found {tokenizer.fingerprint()}. Expected the files "
            "that were written with the weights; put them back."
        )


def tokenizer_of_adapter(folder: Path, tokenizer: Tokenizer) -> Tokenizer:
    """Return the base's tokenizer with the chat format that the adapter was trained with.

    Raises:
        TokenizerError: if the adapter saw another tokenizer or template; an adapter without a
            stamp (of another tool) is not checked.
    """
    stamp = read_stamp(folder)
    trained, chat_format = stamp.get("tokenizer_fingerprint"), stamp.get("chat_format")
    if trained not in (None, tokenizer.fingerprint()) and chat_format:
        tokenizer = tokenizer.with_chat_format(chat_format)
    check_stamp(folder, tokenizer)
    return tokenizer

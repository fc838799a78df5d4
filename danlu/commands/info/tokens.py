"""Tokenizer and chat format of a folder, and whether they fit the model."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from danlu.errors import TokenizerError
from danlu.models import discover
from danlu.tokenizer import load_tokenizer


@dataclass(frozen=True)
class TokenizerFacts:
    """What a folder's tokenizer is.

    Attributes:
        kind: of file; None: there is no tokenizer that can be used.
        vocab_size: highest id + 1.
        num_control: control tokens.
        chat_format: used by default; None: none.
        problems: what is missing or does not fit.
        notes: what is good to know.
    """

    kind: str | None = None
    vocab_size: int = 0
    num_control: int = 0
    chat_format: str | None = None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print."""
        if self.kind is None:
            return [("tokenizer", "none that can be used")]
        size = f"{self.vocab_size:,} tokens, {self.num_control} control"
        return [("tokenizer", f"{self.kind}: {size}"), ("chat format", self.chat_format or "none")]


def read_tokenizer(
    folder: Path, family: str | None, values: Mapping[str, Any], num_rows: int | None
) -> TokenizerFacts:
    """Return what the tokenizer of a folder is.

    Args:
        folder: of the checkpoint.
        family: that opens it, None if none does.
        values: its config.json.
        num_rows: of the embedding, None if unknown.
    """
    chat_format = discover()[family].chat_format(values) if family else None
    try:
        tokenizer = load_tokenizer(folder, family, chat_format)
    except TokenizerError as error:
        return TokenizerFacts(problems=(f"tokenizer: {error}",))
    problems, notes = _fit(tokenizer.vocab_size, num_rows)
    return TokenizerFacts(
        kind=type(tokenizer.model).__module__.rpartition(".")[2].replace("_", " "),
        vocab_size=tokenizer.vocab_size,
        num_control=len(tokenizer.special_tokens),
        chat_format=tokenizer.chat_format,
        problems=problems,
        notes=notes,
    )


def _fit(vocab_size: int, num_rows: int | None) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what is wrong between tokenizer and embedding, and what is only worth knowing."""
    if num_rows is None or vocab_size == num_rows:
        return (), ()
    if vocab_size > num_rows:
        return (
            (
                f"the tokenizer has {vocab_size:,} tokens, but the embedding {num_rows:,} rows: "
                f"ids from {num_rows:,} on cannot be looked up",
            ),
            (),
        )
    spare = num_rows - vocab_size
    return (), (f"{spare:,} rows of the embedding have no token (padding, or room for more)",)

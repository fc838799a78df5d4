"""The seam between tokenizer files and everything else: plain text to ids and back.

A `TokenModel` knows one kind of file and nothing of chats. Control tokens never come out of its
`encode`; `danlu.tokenizer.base.Tokenizer` puts them in where they are meant.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from danlu.tokenizer.special import AddedToken, TokenizerSettings


@dataclass(frozen=True)
class Encoded:
    """Token ids and, for each, the `(start, end)` characters of the text it came from."""

    ids: list[int]
    spans: list[tuple[int, int]]


class TokenModel(Protocol):
    """What one kind of tokenizer file can do. All methods may be called from several threads."""

    vocab_size: int  # highest id + 1: the rows an embedding needs
    added: tuple[AddedToken, ...]  # tokens matched as whole strings, control tokens among them
    prefix_after_control: bool  # is a dummy space put in front of text that follows a control token
    marks_each_byte: bool  # invalid UTF-8: one U+FFFD a byte (else one for each broken sequence)
    drops_leading_spaces: bool  # do all spaces a text begins with go (else the dummy one only)
    spoken: frozenset[int]  # control tokens that the family's own encoding reads from plain text
    default_named: dict[str, str]  # "bos_token" and its like, where the settings do not tell
    default_prefix: tuple[int, ...]  # ids in front of a raw prompt unless the settings tell
    default_suffix: tuple[int, ...]  # ids behind a raw prompt
    json_refusal: str  # why `tokenizer_json` returns None
    tokenizer_class: str  # what a saved tokenizer_config.json says where the folder's does not

    def token_id(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""

    def encode(self, text: str, *, prefix: bool) -> list[int]:
        """Encode text without control tokens; `prefix` allows the kind's dummy space in front."""

    def encode_spans(self, text: str, *, prefix: bool) -> Encoded:
        """As `encode`, with the characters of each token."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts, each as a whole; uses all cores."""

    def token_bytes(self, token_id: int, *, first: bool) -> bytes:
        """Return the bytes a token stands for, b"" for an id without token.

        `first` says that the token opens a text, where a dummy space is not part of the text.
        """

    def extended(self, tokens: Sequence[AddedToken], settings: TokenizerSettings) -> "TokenModel":
        """Return this model with further added tokens; `settings` declare them already."""

    def files(self) -> dict[str, bytes]:
        """Return the files that make this model up, as written by `save`."""

    def canonical(self) -> bytes:
        """Return bytes that are equal for equal models, however their files are laid out."""

    def tokenizer_json(self) -> dict[str, Any] | None:
        """Return the same tokenizer as a Hugging Face `tokenizer.json` document.

        Ids and text are equal; None where that format cannot say it exactly.
        """


@dataclass(frozen=True)
class TokenizerFolder:
    """A folder being opened: where it is, what it says of itself, and what the caller knows."""

    path: Path
    settings: TokenizerSettings
    family: str | None

"""tiktoken as a faster way to the same ids, used where it is installed and there is much to encode.

Its results and those of the `tokenizers` library were compared over every Unicode character. Runs
of white space that its pattern engine has no stack for are left to the library.
Source: tiktoken 0.14 (`Encoding.encode_ordinary`, which is safe to call from several threads).
"""

import os
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

from tokenizers import normalizers

from danlu.tokenizer.byte_level import GPT2_PATTERN, WordStyle

WORTH_CHARACTERS = 300_000  # encoded before the engine pays for its start
_LONGEST_GAP = 50_000
_LONG_GAP = re.compile(rf"\s{{{_LONGEST_GAP}}}")
Encode = Callable[[str], list[int]]


class RankEngine:
    """Encodes text without control tokens by ranks.

    Args:
        ranks: token -> rank.
        style: how text becomes words.
        ids: the id of each rank, where that is not the rank.
        words: added tokens that plain text can hold; such texts are left to the library.
    """

    def __init__(
        self,
        ranks: dict[bytes, int],
        style: WordStyle,
        ids: Sequence[int] | None = None,
        words: Sequence[str] = (),
    ) -> None:
        from tiktoken import Encoding

        pattern = style.pattern or GPT2_PATTERN
        encoding = Encoding("ranks", pat_str=pattern, mergeable_ranks=ranks, special_tokens={})
        self._encode: Encode = encoding.encode_ordinary
        self._nfc = normalizers.NFC() if style.nfc else None
        self._ids = ids
        self._words = re.compile("|".join(map(re.escape, words))) if words else None

    def encode(self, text: str, otherwise: Encode) -> list[int]:
        """Return the ids of a text; `otherwise` encodes what is not safe here."""
        if self._words is not None and self._words.search(text):
            return otherwise(text)
        if len(text) >= _LONGEST_GAP and _LONG_GAP.search(text):
            return otherwise(text)
        if self._nfc is not None and not text.isascii():
            text = self._nfc.normalize_str(text)  # Python knows another version of Unicode
        ids = self._encode(text)
        return ids if self._ids is None else list(map(self._ids.__getitem__, ids))

    def encode_batch(self, texts: Sequence[str], otherwise: Encode) -> list[list[int]]:
        """Return the ids of many texts; uses all cores."""
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return list(pool.map(lambda text: self.encode(text, otherwise), texts))


class LazyEngine:
    """A `RankEngine` that is built once enough text was encoded, if tiktoken is installed."""

    def __init__(self, build: Callable[[], RankEngine | None]) -> None:
        self._build: Callable[[], RankEngine | None] | None = build
        self._engine: RankEngine | None = None
        self._characters = 0

    def get(self, texts: Sequence[str]) -> RankEngine | None:
        """Count the texts; return the engine if it is there."""
        self._characters += sum(map(len, texts))
        if self._build is not None and self._characters >= WORTH_CHARACTERS:
            build, self._build = self._build, None
            self._engine = build() if find_spec("tiktoken") else None
        return self._engine

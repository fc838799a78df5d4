"""Which characters of a text a tokenizer has no token for."""

from collections.abc import Iterator, Sequence
from itertools import groupby

from danlu.tokenizer import Tokenizer

UNKNOWN_PIECE = "\u2047"  # what sentencepiece writes for its unknown token


class UnknownCharacters:
    """Tells which characters are unknown: written in bytes, or as the unknown token.

    In a vocabulary of bytes alone every character is written so, and nothing counts as unknown.

    Args:
        tokenizer: whose tokens a text is in.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._unknown_id = tokenizer.special_tokens.get(tokenizer.named.get("unk_token", ""))
        self._bytewise = all(len(self._bytes(each)) < 2 for each in self._text_ids())

    def share(self, ids: Sequence[int]) -> float:
        """Return which share of the characters is unknown; control tokens are none."""
        if self._bytewise:
            return 0.0
        counts = {True: 0, False: 0}
        for is_known, run in groupby(self._pieces(ids), key=_is_known):
            counts[is_known] += len(b"".join(run).decode("utf-8", "replace"))
        return counts[False] / max(1, sum(counts.values()))

    def _text_ids(self) -> Iterator[int]:
        for token_id in range(self._tokenizer.vocab_size):
            if token_id not in self._tokenizer.control_texts:
                yield token_id

    def _pieces(self, ids: Sequence[int]) -> Iterator[bytes]:
        """Yield what each token of the text stands for."""
        for token_id in ids:
            if token_id == self._unknown_id:
                yield UNKNOWN_PIECE.encode()
            elif token_id not in self._tokenizer.control_texts:
                yield self._bytes(token_id)

    def _bytes(self, token_id: int) -> bytes:
        return self._tokenizer.model.token_bytes(token_id, first=False)


def _is_known(piece: bytes) -> bool:
    """Return whether the bytes of a token are whole characters."""
    try:
        return piece.decode("utf-8").strip() != UNKNOWN_PIECE
    except UnicodeDecodeError:
        return False

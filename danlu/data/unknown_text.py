"""Which tokens stand for characters that a tokenizer has no token for."""

from collections.abc import Sequence

from danlu.tokenizer import Tokenizer


class UnknownTokens:
    """Tells tokens that are unknown, or that are parts of characters.

    Where a character has no token of its own, it is written in bytes, or as the unknown token. In
    a vocabulary of bytes alone every character is, so nothing is unknown there.

    Args:
        tokenizer: whose tokens they are.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._bytewise = all(len(self._bytes(each)) < 2 for each in range(tokenizer.vocab_size))
        unknown = tokenizer.named.get("unk_token", "")
        self._unknown_id = tokenizer.special_tokens.get(unknown)
        self._known: dict[int, bool] = {}

    def share(self, ids: Sequence[int]) -> float:
        """Return which share of the tokens, control tokens aside, is unknown."""
        text = [each for each in ids if self._is_text(each)]
        if self._bytewise or not text:
            return 0.0
        return sum(not self._is_known(each) for each in text) / len(text)

    def _is_text(self, token_id: int) -> bool:
        return token_id == self._unknown_id or token_id not in self._tokenizer.control_texts

    def _is_known(self, token_id: int) -> bool:
        if token_id not in self._known:
            self._known[token_id] = token_id != self._unknown_id and self._is_whole(token_id)
        return self._known[token_id]

    def _bytes(self, token_id: int) -> bytes:
        """Return the bytes of a token; nothing for a control token."""
        if token_id in self._tokenizer.control_texts:
            return b""
        return self._tokenizer.model.token_bytes(token_id, first=False)

    def _is_whole(self, token_id: int) -> bool:
        try:
            self._bytes(token_id).decode("utf-8")
        except UnicodeDecodeError:
            return False
        return True

"""Ids to text, one id at a time, never half a character.

Each token is turned into bytes on its own, and Python's incremental UTF-8 decoder holds back an
unfinished character, so a push costs the same however long the answer is.
"""

import codecs
from typing import TYPE_CHECKING

from danlu.errors import TokenizerError

if TYPE_CHECKING:
    from danlu.tokenizer.base import Tokenizer

_ESCAPED_BYTES = {code: "\ufffd" for code in range(0xDC80, 0xDD00)}


class IncrementalDecoder:
    """Decodes a growing list of ids; the pieces joined are exactly `tokenizer.decode(ids)`.

    A byte that can begin or go on a character is held back until the character is whole; what can
    no longer become a character comes out as U+FFFD.
    """

    def __init__(self, tokenizer: "Tokenizer", skip_special: bool = True) -> None:
        self._model = tokenizer.model
        self._control = tokenizer.control_texts
        self._skip_special = skip_special
        errors = "surrogateescape" if self._model.marks_each_byte else "replace"
        self._utf8 = codecs.getincrementaldecoder("utf-8")(errors)
        self._first = True

    def push(self, token_id: int) -> str:
        """Return the text that `token_id` completes, often one word, sometimes nothing.

        Raises:
            TokenizerError: if the id is negative.
        """
        if token_id < 0:
            raise TokenizerError(f"Cannot decode the id {token_id}; ids start at 0.")
        control = self._control.get(token_id)
        if control is not None:
            return self._push_control(token_id, control)
        data = self._model.token_bytes(token_id, first=self._first)
        self._first = self._first and not data and self._model.drops_leading_spaces
        return self._decode(data)

    def finish(self) -> str:
        """Return what was held back; the decoder can then begin a new text."""
        self._first = True
        text = self._decode(b"", final=True)
        self._utf8.reset()
        return text

    def _push_control(self, token_id: int, text: str) -> str:
        if self._skip_special:
            self._first = self._first or self._model.prefix_after_control
            return ""
        spoken = token_id in self._model.spoken  # a part of the text like any other
        self._first = not spoken and (self._first or self._model.prefix_after_control)
        return self._decode(text.encode())

    def _decode(self, data: bytes, final: bool = False) -> str:
        text = self._utf8.decode(data, final)
        return text.translate(_ESCAPED_BYTES) if self._model.marks_each_byte else text

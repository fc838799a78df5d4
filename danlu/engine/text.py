"""The text of an answer as it grows: whole characters, stop strings, what may be shown."""

from collections.abc import Sequence
from typing import Protocol


class TextDecoder(Protocol):
    """What turns tokens into text one by one (`danlu.tokenizer.IncrementalDecoder`)."""

    def push(self, token_id: int) -> str:
        """Return the characters that are whole with this token."""

    def finish(self) -> str:
        """Return what is left of an unfinished character."""


class AnswerText:
    """The text of one answer, ended before the first stop string.

    A stop string may begin in one token and end in another. `take` never returns a text that could
    still turn out to be the beginning of a stop string.
    """

    def __init__(self, decoder: TextDecoder, stop: Sequence[str] = ()) -> None:
        self._decoder = decoder
        self._stop = tuple(stop)
        self._longest = max(map(len, self._stop), default=0)
        self._taken = 0
        self._ended = False
        self.text = ""

    def push(self, token_id: int) -> bool:
        """Add a token; return whether a stop string is complete. The text is then cut before it."""
        return self._add(self._decoder.push(token_id))

    def finish(self) -> bool:
        """End the text; return whether its last characters completed a stop string."""
        if self._ended:
            return False
        stopped = self._add(self._decoder.finish())
        self._ended = True
        return stopped

    def _add(self, piece: str) -> bool:
        searched = max(0, len(self.text) - self._longest + 1)
        self.text += piece
        found = [self.text.find(stop, searched) for stop in self._stop] if piece else []
        found = [start for start in found if start >= 0]
        if found:
            self.text = self.text[: min(found)]
            self._ended = True
        return bool(found)

    def take(self) -> str:
        """Return the text that is certain and was not taken yet."""
        end = len(self.text) - (0 if self._ended else self._doubtful())
        piece = self.text[self._taken : end]
        self._taken = max(self._taken, end)
        return piece

    def _doubtful(self) -> int:
        """How many characters at the end may be the beginning of a stop string."""
        for count in range(min(self._longest - 1, len(self.text)), 0, -1):
            tail = self.text[-count:]
            if any(stop.startswith(tail) for stop in self._stop):
                return count
        return 0

"""The bytes that a token's written form stands for, in the two ways that vocabularies write bytes.

Sources: `bytes_to_unicode` of GPT-2 (byte-level BPE); the byte fallback of sentencepiece.
"""

from collections.abc import Sequence
from functools import cache
from itertools import accumulate, pairwise

SPACE = "\u2581"  # the visible space of sentencepiece
_INNER = bytes(range(0x80, 0xC0))  # the bytes of a character in UTF-8 after its first
_INNER_BYTES = frozenset(bytes([byte]) for byte in _INNER)


@cache
def _byte_alphabet() -> dict[str, int]:
    """Return the 256 characters that stand for bytes (GPT-2's `bytes_to_unicode`)."""
    plain = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + i): b for i, b in enumerate(others)}


def spell_bytes(tokens: Sequence[bytes]) -> list[str]:
    """Return each token in the byte alphabet, the inverse of `byte_level_bytes`."""
    letters = {byte: letter for letter, byte in _byte_alphabet().items()}
    everything = b"".join(tokens).decode("latin-1").translate(letters)
    ends = list(accumulate(map(len, tokens), initial=0))
    return [everything[start:end] for start, end in pairwise(ends)]


def byte_level_bytes(token: str) -> bytes:
    """Return the bytes a byte-level token spells; a token outside the alphabet is its own text."""
    alphabet = _byte_alphabet()
    try:
        return bytes([alphabet[character] for character in token])
    except KeyError:
        return token.encode()


def piece_bytes(piece: str) -> bytes:
    """Return the bytes of a sentencepiece piece: `<0xE4>` is one byte, U+2581 is a space."""
    if len(piece) == 6 and piece.startswith("<0x") and piece.endswith(">"):
        return bytes([int(piece[3:5], 16)])
    return piece.replace(SPACE, " ").encode()


def character_spans(pieces: Sequence[bytes]) -> list[tuple[int, int]]:
    """Return the (start, end) characters of each piece of a text in UTF-8.

    Pieces that share a character all have it in their span.
    """
    if b"".join(pieces).isascii():
        ends = list(accumulate(map(len, pieces), initial=0))
        return list(pairwise(ends))
    begun = (len(piece.translate(None, _INNER)) for piece in pieces)
    ends = list(accumulate(begun, initial=0))
    runs = zip(pairwise(ends), pieces, strict=True)
    return [(start - (piece[:1] in _INNER_BYTES), end) for (start, end), piece in runs]


def spelled_spans(
    text: str, pieces: Sequence[str], drops_outer_spaces: bool
) -> list[tuple[int, int]] | None:
    """Return the (start, end) characters of each sentencepiece piece of a text.

    Args:
        text: what was encoded.
        pieces: what it became; none of them stands for bytes or for what is unknown.
        drops_outer_spaces: does the model drop spaces around a text?

    Returns:
        None if the pieces are not the text with visible spaces, but for a space in front of it: the
        model normalized something, and only its library knows which characters are where.
    """
    dropped = " " if drops_outer_spaces else ""
    kept = text.removeprefix(dropped)
    begin = len(text) - len(kept)
    kept = kept.removesuffix(dropped)
    if kept.startswith((SPACE, dropped or SPACE)) or kept.endswith(dropped or SPACE):
        return None  # more than one may have been dropped
    spelled, expected = "".join(pieces), kept.replace(" ", SPACE)
    has_prefix = spelled != expected
    if has_prefix and spelled != SPACE + expected:
        return None
    ends = accumulate(map(len, pieces), initial=begin - has_prefix)
    return list(pairwise([begin, *list(ends)[1:]]))

"""Codes of few bits in words of 32, and back.

Two ways are in use, equal for 1, 2, 4 and 8 bits. Fields: a word holds as many whole codes as fit,
the first in its lowest bits. Stream: codes follow each other without a gap, across words too.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

SLICE_CODES = 2**21  # unpacked at a time, so that what is wider than a code stays small
WORD_BITS = 32


def pack(codes: Tensor, bits: int) -> Tensor:
    """Return signed codes [rows, n] as int32 words [rows, ceil(n / (32 // bits))], as fields."""
    per_word = WORD_BITS // bits
    unsigned = codes.to(torch.int64) + 2 ** (bits - 1)
    padding = -unsigned.shape[1] % per_word
    fields = F.pad(unsigned, (0, padding)).unflatten(1, (-1, per_word))
    shifts = torch.arange(per_word, device=codes.device) * bits
    words: Tensor = (fields << shifts).sum(-1).to(torch.int32)
    return words


def unpack(words: Tensor, bits: int, count: int) -> Tensor:
    """Return the signed int8 codes [rows, count] of fields; the inverse of `pack`."""
    shifts = torch.arange(WORD_BITS // bits, device=words.device, dtype=torch.int32) * bits

    def fields(part: Tensor) -> Tensor:
        spread: Tensor = (part[..., None] >> shifts) & (2**bits - 1)
        return spread.flatten(1)[:, :count]

    return _signed(words, bits, count, fields)


def pack_stream(codes: Tensor, bits: int) -> Tensor:
    """Return signed codes [rows, n] as int32 words [rows, ceil(n * bits / 32)], as a stream."""
    if WORD_BITS % bits == 0:
        return pack(codes, bits)
    word, shift = _places(codes.shape[1], bits, codes.device)
    unsigned = codes.to(torch.int64) + 2 ** (bits - 1)
    words = unsigned.new_zeros(len(codes), stream_words(codes.shape[1], bits) + 1)
    words.index_add_(1, word, (unsigned << shift) & (2**WORD_BITS - 1))
    words.index_add_(1, word + 1, unsigned >> (WORD_BITS - shift))
    packed: Tensor = words[:, :-1].to(torch.int32)
    return packed


def unpack_stream(words: Tensor, bits: int, count: int) -> Tensor:
    """Return the signed int8 codes [rows, count] of a stream; the inverse of `pack_stream`."""
    if WORD_BITS % bits == 0:
        return unpack(words, bits, count)
    word, shift = _places(count, bits, words.device)

    def codes(part: Tensor) -> Tensor:
        wide = F.pad(part.to(torch.int64) & (2**WORD_BITS - 1), (0, 1))
        both: Tensor = (wide[:, word] >> shift) | (wide[:, word + 1] << (WORD_BITS - shift))
        return both.bitwise_and(2**bits - 1)

    return _signed(words, bits, count, codes)


def unpack_either(words: Tensor, bits: int, count: int) -> Tensor:
    """Return the codes of a stream, or of fields where there are more words than a stream has."""
    is_stream = words.shape[1] == stream_words(count, bits)
    return unpack_stream(words, bits, count) if is_stream else unpack(words, bits, count)


def stream_words(count: int, bits: int) -> int:
    """Return how many words a stream of codes has."""
    return -(-count * bits // WORD_BITS)


def field_words(count: int, bits: int) -> int:
    """Return how many words the fields of codes have."""
    return -(-count // (WORD_BITS // bits))


def _places(count: int, bits: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return the word in which each code of a stream begins, and the bit."""
    first = torch.arange(count, device=device) * bits
    return first // WORD_BITS, first % WORD_BITS


def _signed(words: Tensor, bits: int, count: int, unpacked: Callable[[Tensor], Tensor]) -> Tensor:
    codes = torch.empty(len(words), count, dtype=torch.int8, device=words.device)
    rows = max(1, SLICE_CODES // max(1, count))
    for start in range(0, len(words), rows):
        part = unpacked(words[start : start + rows].contiguous())
        codes[start : start + rows] = part - 2 ** (bits - 1)
    return codes

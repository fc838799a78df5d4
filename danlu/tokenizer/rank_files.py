"""Rank files of tiktoken: one token a line, its bytes in base64, a space, its rank.

Source: `load_tiktoken_bpe` of tiktoken 0.14. Everything wrong with a file is one error.
"""

import binascii
from itertools import islice
from pathlib import Path

from danlu.errors import TokenizerError, bullet_list

_LONGEST_LINE = 4096


def looks_like_ranks(path: Path) -> bool:
    """Does the file begin with a line of base64 and a number?"""
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        parts = stream.readline(_LONGEST_LINE).split()
    return len(parts) == 2 and parts[1].isdigit() and _decoded(parts[0]) is not None


def read_ranks(path: Path, data: bytes | None = None) -> dict[bytes, int]:
    """Return token -> rank in the order of the ranks.

    Args:
        path: the file, for messages.
        data: what is in it, where that was read before.

    Raises:
        TokenizerError: for lines that are no rank, tokens or ranks given twice, missing bytes.
    """
    data = path.read_bytes() if data is None else data
    words = data.split()
    try:
        tokens = [binascii.a2b_base64(word, strict_mode=True) for word in words[0::2]]
        numbers = list(map(int, words[1::2]))
    except ValueError:
        raise _refusal(path, _wrong_lines(data)) from None
    ranks = dict(sorted(zip(tokens, numbers, strict=False), key=lambda item: item[1]))
    repeated = len(ranks) != len(tokens) or len(set(numbers)) != len(tokens)
    if len(words) % 2 or repeated or b"" in ranks or min(numbers, default=0) < 0:
        raise _refusal(path, [*_wrong_lines(data), *_repeated(tokens, numbers)])
    return ranks


def check_complete(path: Path, ranks: dict[bytes, int], expected: int) -> None:
    """Raise TokenizerError unless the ranks are 0 to `expected` - 1 and hold every byte."""
    problems = []
    if list(ranks.values()) != list(range(expected)):
        missing = sorted(set(range(expected)).difference(ranks.values()))
        first = f", the first missing is {missing[0]}" if missing else ""
        problems.append(f"it has {len(ranks)} ranks, expected {expected}{first}")
    absent = [byte for byte in range(256) if bytes([byte]) not in ranks]
    if absent:
        problems.append(f"{len(absent)} of the 256 single bytes have no rank")
    if problems:
        raise _refusal(path, problems)


def _refusal(path: Path, problems: list[str]) -> TokenizerError:
    return TokenizerError(
        f"'{path}' is not a complete tiktoken rank file:{bullet_list(problems, limit=5)}\n"
        "Expected a token in base64 and its rank in each line, every rank once. Fetch it again."
    )


def _wrong_lines(data: bytes) -> list[str]:
    problems = []
    for number, line in enumerate(data.splitlines(), 1):
        parts = line.split()
        if parts and not (len(parts) == 2 and parts[1].isdigit() and _decoded(parts[0])):
            problems.append(f"line {number} is {line[:40]!r}")
    return problems


def _decoded(word: bytes) -> bytes | None:
    try:
        return binascii.a2b_base64(word, strict_mode=True)
    except binascii.Error:
        return None


def _repeated(tokens: list[bytes], numbers: list[int]) -> list[str]:
    seen: dict[bytes, int] = {}
    taken: dict[int, bytes] = {}
    problems = []
    for token, number in zip(tokens, numbers, strict=False):
        if token in seen:
            problems.append(f"the token {token!r} is there twice, as {seen[token]} and {number}")
        elif number in taken:
            problems.append(
                f"the rank {number} is there twice, for {taken[number]!r} and {token!r}"
            )
        seen[token], taken[number] = number, token
    return list(islice(problems, 100))

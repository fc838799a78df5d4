"""A sentencepiece BPE model as a `tokenizer.json` document: the same ids from the same text.

What is said exactly: pieces and scores as merges (`danlu.tokenizer.pair_merges`), byte fallback,
the dummy space in front, pieces of the user found before merging, and the `nmt_nfkc` rules. The
latter are Unicode's NFKC and what differs from it, found by asking the library about each
character. What is left: combining marks that only NFKC would move, or join to what it took apart;
noncharacters (U+FDD0 and the like shield characters here); texts of deleted characters alone.
Source: sentencepiece 0.2 (`bpe_model.cc`, `normalizer.cc`); `tokenizers` 0.21 to 0.23.
"""

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sentencepiece import SentencePieceProcessor
from tokenizers import normalizers

from danlu.tokenizer.library import prefix_processor
from danlu.tokenizer.pair_merges import order_of_equals, token_merges
from danlu.tokenizer.pieces import SPACE
from danlu.tokenizer.protobuf import fields
from danlu.tokenizer.special import AddedToken

BPE_MODEL = 2  # TrainerSpec.model_type
NORMAL, UNKNOWN, CONTROL, USER, UNUSED, BYTE = 1, 2, 3, 4, 5, 6  # types of pieces
_SHIELDS = [chr(code) for code in range(0xFDD0, 0xFDF0)]  # Unicode: never in a text
_BLOCKS = (  # without CJK ideographs, Hangul syllables, surrogates and private characters
    *(range(0x3400), range(0x4DC0, 0x4E00), range(0xA000, 0xAC00), range(0xD7A4, 0xD800)),
    *(range(0xF900, 0xFDD0), range(0xFDF0, 0xFFFE), range(0x10000, 0x20000)),
    *(range(0x2F800, 0x2FA20), range(0xE0000, 0xE0200)),
)


@dataclass(frozen=True)
class PieceTable:
    """What a sentencepiece model says, as far as it matters here.

    Attributes:
        texts, scores, types: of each piece.
        model_type: 1 unigram, 2 BPE, 3 word, 4 character.
        byte_fallback: are unknown characters spelled in bytes.
        dummy_prefix, trims: is a space put in front; are further spaces dropped.
        rules: name of the normalisation rules.
    """

    texts: list[str]
    scores: list[float]
    types: list[int]
    model_type: int
    byte_fallback: bool
    dummy_prefix: bool
    trims: bool
    rules: str


def read_pieces(proto: bytes) -> PieceTable:
    """Read a serialised sentencepiece model, for who needs scores and types."""
    pieces: list[tuple[str, float, int]] = []
    trainer: dict[int, int | bytes] = {}
    normalizer: dict[int, int | bytes] = {}
    for number, value in fields(proto):
        if number == 1 and isinstance(value, bytes):
            pieces.append(_piece(dict(fields(value))))
        elif number == 2 and isinstance(value, bytes):
            trainer |= dict(fields(value))
        elif number == 3 and isinstance(value, bytes):
            normalizer |= dict(fields(value))
    texts, scores, types = zip(*pieces, strict=True)
    return PieceTable(
        list(texts),
        list(scores),
        list(types),
        model_type=int(trainer.get(3, 1)),
        byte_fallback=bool(trainer.get(35, 0)),
        dummy_prefix=bool(normalizer.get(3, 1)),
        trims=bool(normalizer.get(4, 1)),
        rules=_text(normalizer.get(1, b"identity")),
    )


def _piece(message: Mapping[int, int | bytes]) -> tuple[str, float, int]:
    score = message.get(2)
    number = struct.unpack("<f", score)[0] if isinstance(score, bytes) else 0.0
    return _text(message.get(1, b"")), number, int(message.get(3, NORMAL))


def _text(value: int | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else ""


def refusal(table: PieceTable) -> str:
    """Return why a model cannot be a `tokenizer.json` with the same ids; "" if it can."""
    if table.model_type != BPE_MODEL:
        return "its sentencepiece model is no BPE model (unigram, most likely)"
    if table.trims:
        return "its sentencepiece model drops spaces where it finds several"
    if table.rules not in ("identity", "nmt_nfkc"):
        return f"its sentencepiece model has normalisation rules of its own ({table.rules!r})"
    return ""


def pieces_document(
    table: PieceTable,
    library: SentencePieceProcessor,
    added: Sequence[AddedToken],
    prefix: Mapping[str, int],
) -> dict[str, Any] | None:
    """Return the document, None where equally ranked pieces have no order that pairs can follow.

    Args:
        table: what the model says; `refusal` has nothing against it.
        library: the model, asked about its normalisation.
        added: control tokens and what the folder added.
        prefix: the control tokens in front of a whole prompt.
    """
    words = [text for text, kind in zip(table.texts, table.types, strict=True) if kind == USER]
    merges = _merges(table, words)
    if merges is None:
        return None
    long_words = [word for word in words if len(word) > 1]
    tokens = [*added] if table.dummy_prefix else _with_words(added, table, long_words)
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": token.token_id, **token.entry()} for token in _by_id(tokens)],
        "normalizer": {"type": "Sequence", "normalizers": _steps(table, library, words)},
        "pre_tokenizer": _splits(long_words) if table.dummy_prefix and long_words else None,
        "post_processor": prefix_processor(list(prefix), tuple(prefix.values()))
        if prefix
        else None,
        "decoder": {"type": "Sequence", "decoders": _decoders(table)},
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": table.texts[table.types.index(UNKNOWN)],
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": True,
            "byte_fallback": table.byte_fallback,
            "ignore_merges": table.dummy_prefix and bool(long_words),
            "vocab": {text: index for index, text in enumerate(table.texts)},
            "merges": [list(pair) for pair in merges],
        },
    }


def _by_id(tokens: Sequence[AddedToken]) -> list[AddedToken]:
    return sorted(tokens, key=lambda token: token.token_id)


def _with_words(
    added: Sequence[AddedToken], table: PieceTable, words: Sequence[str]
) -> list[AddedToken]:
    """Return the added tokens and the user's pieces, which are found before anything is merged."""
    taken = {token.text for token in added}
    ids = {text: index for index, text in enumerate(table.texts)}
    return [*added, *(AddedToken(w, ids[w], special=False) for w in words if w not in taken)]


def _merges(table: PieceTable, words: Sequence[str]) -> list[tuple[str, str]] | None:
    """Return the merges of the normal pieces, best score first."""
    frozen = re.compile("|".join(map(re.escape, words))) if words else None
    normal = [
        (score, text)
        for text, score, kind in zip(table.texts, table.scores, table.types, strict=True)
        if kind == NORMAL and not (frozen and frozen.search(text))
    ]
    normal.sort(key=lambda item: -item[0])
    rank_of = {score: rank for rank, score in enumerate(dict.fromkeys(s for s, _ in normal))}
    ranks = {text: rank_of[score] for score, text in normal}
    return order_of_equals(token_merges(ranks), ranks)


def _splits(words: Sequence[str]) -> dict[str, Any]:
    """Return the step that cuts out the user's pieces, the longest of several.

    They become tokens as whole words (`ignore_merges`). As added tokens they would be cut out
    before normalisation, and the text behind each would get a dummy space.
    """
    pattern = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return {
        "type": "Split",
        "pattern": {"Regex": pattern},
        "behavior": "Isolated",
        "invert": False,
    }


def _decoders(table: PieceTable) -> list[dict[str, Any]]:
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    return [
        {"type": "Replace", "pattern": {"String": SPACE}, "content": " "},
        {"type": "ByteFallback"},
        {"type": "Fuse"},
        *([strip] if table.dummy_prefix else []),
    ]


def _steps(
    table: PieceTable, library: SentencePieceProcessor, words: Sequence[str]
) -> list[dict[str, Any]]:
    prefix = {"type": "Prepend", "prepend": SPACE}
    return [
        *(_nfkc_steps(library) if table.rules == "nmt_nfkc" else []),
        *([prefix] if table.dummy_prefix else []),
        _replace(" ", SPACE),
    ]


def _replace(found: str, by: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"String": found}, "content": by}


def _nfkc_steps(library: SentencePieceProcessor) -> list[dict[str, Any]]:
    """Return NFKC between steps that make it the library's rules, character by character."""
    different = dict(_different_characters(library))
    kept = [character for character, by in different.items() if character == by]
    shields = dict(zip(kept, _SHIELDS, strict=False))
    return [
        *(_replace(character, shields[character]) for character in shields),
        *_replaced({c: by for c, by in different.items() if c not in shields}),
        {"type": "NFKC"},
        *(_replace(shield, character) for character, shield in shields.items()),
    ]


def _replaced(different: Mapping[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the replacements; those by a space and by nothing are one step each."""
    for by in (" ", ""):
        found = "".join(re.escape(c) for c, result in different.items() if result == by)
        if found:
            yield {"type": "Replace", "pattern": {"Regex": f"[{found}]"}, "content": by}
    yield from (_replace(c, by) for c, by in different.items() if by not in (" ", ""))


def _different_characters(library: SentencePieceProcessor) -> Iterator[tuple[str, str]]:
    """Yield each character that NFKC does not treat as the library does, with the latter."""
    nfkc = normalizers.NFKC()
    for character in _candidates():
        ours = nfkc.normalize_str(character)
        theirs = library.normalize(f"x{character}x").replace(SPACE, " ")[2:-1]
        if ours != theirs:
            yield character, theirs


def _candidates() -> Iterator[str]:
    """Yield the characters that any normalisation may touch: all but whole scripts of letters."""
    for block in _BLOCKS:
        yield from map(chr, block)

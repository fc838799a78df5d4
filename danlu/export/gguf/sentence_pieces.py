"""Sentencepiece BPE for llama.cpp: pieces with scores, types and bytes.

llama.cpp merges neighbours whose joint piece has the highest score, which is what sentencepiece's
BPE does; a unigram vocabulary would be cut differently and is refused. The same vocabulary as
`tokenizer.json` carries merges instead of scores: their order is the score.

Source: llm_tokenizer_spm of llama.cpp (llama-cpp-python 0.3.36); `sentencepiece_model.proto` of
sentencepiece 0.2 (ModelProto.pieces = 1, .trainer_spec = 2, .normalizer_spec = 3).
"""

import struct
from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from danlu.errors import ExportError
from danlu.export.gguf.words import Words
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.protobuf import fields

PROTO_START = b"\x0a"  # field 1 of a sentencepiece model: its pieces
BPE = 2  # TrainerSpec.ModelType; the default, 1, is unigram
KINDS = ("NORMAL", "UNKNOWN", "CONTROL", "USER_DEFINED", "UNUSED", "BYTE")  # from 1 on

Fields = dict[int, int | bytes]


def read_pieces(tokenizer: Tokenizer) -> Words | None:
    """Return the vocabulary of a tokenizer that is a sentencepiece model, None for others.

    Raises:
        ExportError: for models that are not BPE, or cannot spell unknown text in bytes.
    """
    protos = [data for name, data in tokenizer.model.files().items() if name.endswith(".model")]
    if not protos or not protos[0].startswith(PROTO_START):
        return None
    pieces, trainer, normalizer = _parts(protos[0])
    plain = tokenizer.model
    space_prefix = plain.encode("a", prefix=True) != plain.encode("a", prefix=False)
    types = {i: KINDS[_number(piece, 3, 1) - 1] for i, piece in enumerate(pieces)}
    _refuse(_number(trainer, 3, 1), types)
    if space_prefix:  # llama.cpp would put a space behind each piece that is found as a whole
        types = {i: "NORMAL" if t == "USER_DEFINED" else t for i, t in types.items()}
    return Words(
        model="llama",
        pre="default",
        tokens={i: _bytes(piece, 1).decode() for i, piece in enumerate(pieces)},
        types=types,
        scores=tuple(_score(piece) for piece in pieces),
        space_prefix=space_prefix,
        notes=tuple(_normalizer_notes(normalizer)),
    )


def _parts(proto: bytes) -> tuple[list[Fields], Fields, Fields]:
    """Return pieces, TrainerSpec and NormalizerSpec; what comes later is added to the spec."""
    pieces: list[Fields] = []
    specs: dict[int, Fields] = {2: {}, 3: {}}
    for number, value in fields(proto):
        assert isinstance(value, bytes)
        if number == 1:
            pieces.append(dict(fields(value)))
        elif number in specs:
            specs[number] |= dict(fields(value))
    return pieces, specs[2], specs[3]


def _refuse(model_type: int, types: Mapping[int, str]) -> None:
    if model_type != BPE:
        raise ExportError(
            "This sentencepiece model is not of the BPE kind (unigram, most likely); llama.cpp "
            "would cut texts differently. Export with --no-tokenizer to get a GGUF file that "
            "takes token ids."
        )
    if "BYTE" not in types.values():
        raise ExportError(
            "This sentencepiece model has no pieces for single bytes, which llama.cpp needs. "
            "Export with --no-tokenizer to get a GGUF file that takes token ids."
        )


def _normalizer_notes(normalizer: Fields) -> Iterator[str]:
    if normalizer.get(2):
        name = _bytes(normalizer, 1).decode() or "its own table"
        yield f"llama.cpp does not normalise text ({name}), so rare texts get other ids there"
    if _number(normalizer, 4, 1):
        yield "llama.cpp keeps double spaces, which this tokenizer folds into one"


def _number(message: Fields, field: int, default: int) -> int:
    return int(message.get(field, default))


def _bytes(message: Fields, field: int) -> bytes:
    value = message.get(field, b"")
    assert isinstance(value, bytes)
    return value


def _score(piece: Fields) -> float:
    value = _bytes(piece, 2)
    return float(struct.unpack("<f", value)[0]) if value else 0.0


def is_said_by(document: Mapping[str, Any]) -> bool:
    """Return whether a `tokenizer.json` is sentencepiece BPE: pieces, with bytes for the rest."""
    model = document["model"]
    return bool(model["type"] == "BPE" and model.get("byte_fallback"))


def from_document(document: Mapping[str, Any]) -> Words:
    """Return the vocabulary of a `tokenizer.json` that was converted from sentencepiece.

    Raises:
        ExportError: if the order of its merges cannot be said by scores.
    """
    model = document["model"]
    vocab: dict[str, int] = model["vocab"]
    merges = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model["merges"]]
    ranks = _ranks(vocab, merges)
    types = {vocab[f"<0x{byte:02X}>"]: "BYTE" for byte in range(256) if f"<0x{byte:02X}>" in vocab}
    unknown = model.get("unk_token")
    if unknown in vocab:
        types[vocab[unknown]] = "UNKNOWN"
    return Words(
        model="llama",
        pre="default",
        tokens={i: text for text, i in vocab.items()},
        types=types,
        scores=tuple(-float(ranks.get(i, 0)) for i in range(1 + max(vocab.values()))),
        space_prefix=_adds_space(document),
    )


def _ranks(vocab: Mapping[str, int], merges: list[tuple[str, ...]]) -> dict[int, int]:
    """Return the rank of each merged token; all ways to merge one must follow each other."""
    joined = ["".join(merge) for merge in merges]
    starts = [i for i, (last, now) in enumerate(pairwise(["", *joined])) if last != now]
    order = [joined[i] for i in starts]
    ways = {merge for text in order for merge in _ways(text, vocab)}
    if len(set(order)) != len(order) or ways != set(merges):
        raise ExportError(
            "The merges of this tokenizer.json do not come from sentencepiece: a token can be "
            "merged in ways that the file does not list, or not in one go. llama.cpp would cut "
            "texts differently. Export the folder with its tokenizer.model instead."
        )
    return {vocab[text]: rank for rank, text in enumerate(order, start=1)}


def _ways(text: str, vocab: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    for cut in range(1, len(text)):
        if text[:cut] in vocab and text[cut:] in vocab:
            yield text[:cut], text[cut:]


def _adds_space(document: Mapping[str, Any]) -> bool:
    steps = [document.get("normalizer") or {}, document.get("pre_tokenizer") or {}]
    inner = [
        s for step in steps for s in step.get("normalizers", step.get("pretokenizers", [step]))
    ]
    return any(
        s.get("type") == "Prepend"
        or (s.get("type") == "Metaspace" and s.get("prepend_scheme", "always") != "never")
        for s in inner
    )

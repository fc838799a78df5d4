"""Sentencepiece BPE for llama.cpp: pieces with scores, types and bytes.

llama.cpp merges neighbours whose joint piece has the highest score, which is what sentencepiece's
BPE does; a unigram vocabulary would be cut differently and is refused. The same vocabulary as
`tokenizer.json` carries merges instead of scores: their order is the score.

Source: llm_tokenizer_spm of llama.cpp (llama-cpp-python 0.3.36); sentencepiece 0.2.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise
from typing import Any

from sentencepiece import SentencePieceProcessor

from danlu.errors import ExportError
from danlu.export.gguf.words import Words
from danlu.tokenizer import Tokenizer

PROTO_START = b"\x0a"  # field 1 of a sentencepiece model: its pieces
WIDE, NARROW = "\uff21", "A"  # the same letter to a normaliser


def read_pieces(tokenizer: Tokenizer) -> Words | None:
    """Return the vocabulary of a tokenizer that is a sentencepiece model, None for others.

    Raises:
        ExportError: for unigram models.
    """
    protos = [data for name, data in tokenizer.model.files().items() if name.endswith(".model")]
    if not protos or not protos[0].startswith(PROTO_START):
        return None
    library = SentencePieceProcessor(model_proto=protos[0])
    size = int(library.vocab_size())
    types = {i: kind for i in range(size) if (kind := _kind(library, i))}
    scores = tuple(float(library.get_score(i)) for i in range(size))
    if any(not score.is_integer() for i, score in enumerate(scores) if i not in types):
        raise ExportError(
            "This sentencepiece model is of the unigram kind; llama.cpp's is BPE and would cut "
            "texts differently. Export with --no-tokenizer to get a GGUF file that takes token ids."
        )
    prefixed = tokenizer.model.encode("a", prefix=True) != tokenizer.model.encode("a", prefix=False)
    folds = library.encode(WIDE) == library.encode(NARROW)
    return Words(
        model="llama",
        pre="default",
        tokens={i: library.id_to_piece(i) for i in range(size)},
        types=types,
        scores=scores,
        space_prefix=prefixed,
        notes=("llama.cpp does not normalise text (NFKC), so rare texts get other ids there",)
        if folds
        else (),
    )


def _kind(library: Any, i: int) -> str:
    if library.is_unknown(i):
        return "UNKNOWN"
    if library.is_control(i):
        return "CONTROL"
    if library.is_byte(i):
        return "BYTE"
    return "UNUSED" if library.is_unused(i) else ""


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

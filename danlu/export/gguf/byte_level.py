"""Byte-level BPE for llama.cpp: tokens in GPT-2's alphabet, merges, and a pre-tokenizer by name.

llama.cpp has a list of pre-tokenizers that it knows by name; each is one splitting pattern. Ours is
looked up by its pattern, so a name is only written where the pattern is the same.

Source: src/llama-vocab.cpp of llama.cpp (llama-cpp-python 0.3.36), which quotes the patterns.
"""

from collections.abc import Mapping
from typing import Any

from danlu.errors import ExportError
from danlu.export.gguf.words import Words

LETTERS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
SPACES = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = rf"{LETTERS}\p{{N}}{SPACES}"
LLAMA3 = rf"{LETTERS}\p{{N}}{{1,3}}{SPACES}"
BLOOM = " ?[^(\\s|[.,!?\u2026\u3002\uff0c\u3001\u0964\u06d4\u060c])]+"


def from_document(document: Mapping[str, Any], *, has_bos: bool) -> Words:
    """Return the vocabulary of a `tokenizer.json`.

    Args:
        document: its content.
        has_bos: whether the tokenizer has a token that begins a text.

    Raises:
        ExportError: if llama.cpp has no pre-tokenizer with this pattern.
    """
    model = document["model"]
    if model["type"] != "BPE":
        raise ExportError(
            f"llama.cpp's tokenizers are BPE; this one is {model['type']}. Export with "
            "--no-tokenizer to get a GGUF file that takes token ids."
        )
    return Words(
        model="gpt2",
        pre=pre_tokenizer(document, has_bos=has_bos),
        tokens={int(i): text for text, i in model["vocab"].items()},
        merges=tuple(m if isinstance(m, str) else " ".join(m) for m in model["merges"]),
        notes=_normalizer_notes(document.get("normalizer")),
    )


def _normalizer_notes(normalizer: Mapping[str, Any] | None) -> tuple[str, ...]:
    if normalizer is None:
        return ()
    kind = normalizer["type"]
    return (f"llama.cpp does not normalise text ({kind}), so rare texts get other ids there",)


def pre_tokenizer(document: Mapping[str, Any], *, has_bos: bool) -> str:
    """Return llama.cpp's name of the pre-tokenizer of a `tokenizer.json`.

    Raises:
        ExportError: if it knows none with this pattern.
    """
    pattern = _pattern(document.get("pre_tokenizer") or {})
    whole_words = bool(document["model"].get("ignore_merges"))
    names = {
        GPT2: "gpt-2",
        QWEN2: "qwen2",
        LLAMA3: _llama3_name(whole_words, has_bos),
        BLOOM: "bloom",
    }
    if pattern not in names:
        raise ExportError(
            f"llama.cpp has no pre-tokenizer that splits text by {pattern!r}, so it would give "
            "other ids. Export with --no-tokenizer to get a GGUF file that takes token ids."
        )
    return names[pattern]


def _llama3_name(whole_words: bool, has_bos: bool) -> str:
    """Four names share the pattern: is a word that is a token taken whole, and is there a BOS?"""
    if whole_words:
        return "llama-bpe" if has_bos else "glm4"
    return "smaug-bpe" if has_bos else "chatglm-bpe"


def _pattern(step: Mapping[str, Any]) -> str:
    """Return the splitting pattern; what is no plain split by one pattern, as it is written."""
    steps = step.get("pretokenizers", [step])
    splits = [s["pattern"] for s in steps if s.get("type") == "Split"]
    levels = [s for s in steps if s.get("type") == "ByteLevel"]
    plain = len(splits) + len(levels) == len(steps) and len(levels) == 1 and len(splits) <= 1
    if not plain or levels[0].get("add_prefix_space"):
        return str(dict(step))
    if not splits:
        return GPT2 if levels[0].get("use_regex", True) else ""
    if levels[0].get("use_regex", True):
        return str(dict(step))
    return str(splits[0].get("Regex", splits[0]))

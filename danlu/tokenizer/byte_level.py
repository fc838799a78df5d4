"""Byte-level BPE built from a vocabulary and merges, with the ways families cut text into words.

Sources: GPT-2's `encoder.py`, Qwen's and Llama 3's tiktoken patterns, GLM-4's (Llama 3's);
`tokenizers` 0.21 to 0.23. Special tokens are added tokens, never part of a merge.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tokenizers import AddedToken as LibraryToken
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as Backend

from danlu.tokenizer.special import AddedToken

GPT2_PATTERN = (  # what the library's byte-level step does of its own
    r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_THE_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


@dataclass(frozen=True)
class WordStyle:
    """How text becomes words before merging.

    Attributes:
        pattern: a word; None for GPT-2's own pattern.
        nfc: is text brought to Unicode's NFC first.
        whole_words: does a word that is a token become it without merging, as in tiktoken.
    """

    pattern: str | None = None
    nfc: bool = False
    whole_words: bool = False


GPT2 = WordStyle()
QWEN = WordStyle(_CONTRACTIONS + r"\p{N}" + _THE_REST, nfc=True)
LLAMA3 = WordStyle(_CONTRACTIONS + r"\p{N}{1,3}" + _THE_REST)


def build_byte_level(
    vocab: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    style: WordStyle,
    added: Sequence[AddedToken],
) -> Backend:
    """Return the library's tokenizer; control tokens written in a text stay text.

    Args:
        vocab: token in the byte alphabet -> id.
        merges: pairs, the earliest first.
        style: how text becomes words.
        added: tokens matched as whole strings.
    """
    full = (
        dict(vocab) if _follows(vocab, added) else {**vocab, **{t.text: t.token_id for t in added}}
    )
    backend = Backend(models.BPE(full, list(merges), ignore_merges=style.whole_words))
    if style.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = _words(style)
    backend.decoder = decoders.ByteLevel()
    ordered = sorted(added, key=lambda token: token.token_id)
    backend.add_tokens([_library_token(token) for token in ordered])
    backend.encode_special_tokens = True
    return backend


def _follows(vocab: Mapping[str, int], added: Sequence[AddedToken]) -> bool:
    """Are the added tokens in the vocabulary, or numbered right after it without a hole?"""
    beyond = sorted(token.token_id for token in added if token.text not in vocab)
    return beyond == list(range(len(vocab), len(vocab) + len(beyond)))


def _words(style: WordStyle) -> pre_tokenizers.PreTokenizer:
    if style.pattern is None:
        return pre_tokenizers.ByteLevel(add_prefix_space=False)
    split = pre_tokenizers.Split(Regex(style.pattern), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([split, byte_level])


def _library_token(token: AddedToken) -> LibraryToken:
    return LibraryToken(
        token.text,
        single_word=token.single_word,
        lstrip=token.lstrip,
        rstrip=token.rstrip,
        normalized=False,
        special=token.special,
    )

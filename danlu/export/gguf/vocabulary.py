"""A tokenizer as GGUF keys: tokens, types, scores or merges, control ids, chat template.

llama.cpp has its own tokenizers: byte-level BPE, with the pre-tokenizer chosen by name, and
sentencepiece BPE by scores. What they do not do (normalise text, put several tokens in front) is
said in the notes; a vocabulary that they would read differently is refused.

Source: src/llama-vocab.cpp of llama.cpp (llama-cpp-python 0.3.36).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum

from danlu.errors import ExportError
from danlu.export.gguf import byte_level, sentence_pieces
from danlu.export.gguf.architecture import Value
from danlu.export.gguf.words import Words
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.special import AddedToken


class TokenType(IntEnum):
    """GGUF's kinds of tokens."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """What the file says of the tokenizer.

    Attributes:
        metadata: the keys.
        summary: what was written, in words.
        notes: where llama.cpp's tokenizer differs.
    """

    metadata: Mapping[str, Value]
    summary: str
    notes: tuple[str, ...] = field(default=())


LAST_MERGED = -1e6  # the score of what is no piece: llama.cpp merges to any token there is

NO_VOCABULARY = Vocabulary(
    {"tokenizer.ggml.model": "none"},
    "none: the source has no tokenizer, so llama.cpp takes token ids only",
)


def vocabulary(tokenizer: Tokenizer | None, num_rows: int) -> Vocabulary:
    """Return the keys for a model whose embedding has `num_rows` rows.

    Raises:
        ExportError: if llama.cpp has no tokenizer that gives the same ids, with the reason.
    """
    if tokenizer is None:
        return NO_VOCABULARY
    if tokenizer.vocab_size > num_rows:
        raise ExportError(
            f"The tokenizer has ids up to {tokenizer.vocab_size - 1}, but the embedding has only "
            f"{num_rows} rows. Expected a row for every id; is this tokenizer of another model?"
        )
    words = _words(tokenizer)
    tokens, types = _padded(tokenizer, words, num_rows)
    behind = [LAST_MERGED] * (num_rows - len(words.scores))
    scores = [*words.scores, *behind] if words.scores else []
    lists: dict[str, Value] = {
        "tokens": tokens,
        "token_type": types,
        "scores": scores,
        "merges": words.merges,
    }
    metadata: dict[str, Value] = {
        "tokenizer.ggml.model": words.model,
        "tokenizer.ggml.pre": words.pre,
        **{f"tokenizer.ggml.{name}": values for name, values in lists.items() if values},
        **_control_ids(tokenizer),
    }
    if words.space_prefix is not None:
        metadata["tokenizer.ggml.add_space_prefix"] = words.space_prefix
    if template := tokenizer.settings.templates().get("default"):
        metadata["tokenizer.chat_template"] = template
    notes = (*words.notes, *_prefix_notes(tokenizer), *_word_notes(tokenizer))
    summary = f"{words.model} ({words.pre}), {tokenizer.vocab_size:,} tokens"
    return Vocabulary(metadata, summary, notes)


def _words(tokenizer: Tokenizer) -> Words:
    pieces = sentence_pieces.read_pieces(tokenizer)
    if pieces is not None:
        return pieces
    document = tokenizer.model.tokenizer_json()
    if document is None:
        raise ExportError(
            "This tokenizer cannot be said as a tokenizer.json, nor as sentencepiece BPE, so "
            "llama.cpp has nothing that gives the same ids. Export with --no-tokenizer "
            "to get a GGUF file that takes token ids."
        )
    if sentence_pieces.is_said_by(document):
        return sentence_pieces.from_document(document)
    return byte_level.from_document(document, has_bos=tokenizer.bos_id is not None)


def _padded(tokenizer: Tokenizer, words: Words, num_rows: int) -> tuple[list[str], list[int]]:
    """Return a token and its type for every row; llama.cpp wants each text only once."""
    kinds: dict[int, tuple[str, TokenType]] = {
        i: (text, TokenType[words.types.get(i, "NORMAL")]) for i, text in words.tokens.items()
    }
    for added in tokenizer.model.added:
        kinds[added.token_id] = (added.text, TokenType.USER_DEFINED)
    found_in_text = _found_in_text(tokenizer, words)
    for text, i in tokenizer.special_tokens.items():
        kinds[i] = (text, TokenType.USER_DEFINED if i in found_in_text else TokenType.CONTROL)
    for i, kind in words.types.items():
        if kind == "UNKNOWN":
            kinds[i] = (words.tokens[i], TokenType.UNKNOWN)
    rows = [kinds.get(i, (f"[PAD{i}]", TokenType.UNUSED)) for i in range(num_rows)]
    return _unique(rows)


def _found_in_text(tokenizer: Tokenizer, words: Words) -> set[int]:
    """Return control tokens that the family reads from plain text, where llama.cpp does the same.

    It finds them inside words too, and puts the space of a text behind them.
    """
    if words.space_prefix:
        return set()
    return set(tokenizer.model.spoken) - {token.token_id for token in _whole_words(tokenizer)}


def _whole_words(tokenizer: Tokenizer) -> list[AddedToken]:
    return [token for token in tokenizer.model.added if token.special and token.single_word]


def _unique(rows: Sequence[tuple[str, TokenType]]) -> tuple[list[str], list[int]]:
    """Return texts and types; a text that appears again is renamed, as it would stop llama.cpp."""
    seen: set[str] = set()
    tokens, types = [], []
    for i, (text, kind) in enumerate(rows):
        is_new = bool(text) and text not in seen
        tokens.append(text if is_new else f"[UNUSED{i}]")
        types.append(int(kind if is_new else TokenType.UNUSED))
        seen.add(tokens[-1])
    return tokens, types


def _control_ids(tokenizer: Tokenizer) -> dict[str, Value]:
    ids = {  # without a bos llama.cpp would take token 11, or 1, for one
        "bos": tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,
        "eos": tokenizer.eos_id,
        "eot": _end_of_turn(tokenizer),
        "padding": tokenizer.pad_id,
        "unknown": _id_of(tokenizer, "unk_token"),
    }
    return {
        **{f"tokenizer.ggml.{name}_token_id": i for name, i in ids.items() if i is not None},
        "tokenizer.ggml.add_bos_token": _adds_bos(tokenizer),
        "tokenizer.ggml.add_eos_token": False,
    }


def _end_of_turn(tokenizer: Tokenizer) -> int | None:
    others = [i for i in tokenizer.stop_ids() if i != tokenizer.eos_id]
    return others[0] if others else None


def _id_of(tokenizer: Tokenizer, name: str) -> int | None:
    text = tokenizer.named.get(name)
    return None if text is None else tokenizer.special_tokens.get(text)


def _adds_bos(tokenizer: Tokenizer) -> bool:
    return tokenizer.bos_id is not None and tokenizer.prompt_prefix() == [tokenizer.bos_id]


def _prefix_notes(tokenizer: Tokenizer) -> Sequence[str]:
    prefix = tokenizer.prompt_prefix()
    if not prefix or _adds_bos(tokenizer):
        return ()
    texts = " ".join(tokenizer.control_texts.get(i, str(i)) for i in prefix)
    return (f"llama.cpp puts nothing in front of a raw prompt; this model wants {texts} there",)


def _word_notes(tokenizer: Tokenizer) -> Sequence[str]:
    texts = ", ".join(token.text for token in _whole_words(tokenizer))
    return (f"in chats llama.cpp finds {texts} inside words, too",) if texts else ()

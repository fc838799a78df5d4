"""A `TokenModel` over the `tokenizers` library, whatever file its parts came from.

Text goes through the library; bytes of single tokens are worked out here, so that decoding can
stream. Source: `tokenizers` 0.21 to 0.23.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer as Backend
from tokenizers.processors import TemplateProcessing

from danlu.tokenizer.model import Encoded
from danlu.tokenizer.pieces import byte_level_bytes, character_spans, piece_bytes
from danlu.tokenizer.rank_engine import LazyEngine
from danlu.tokenizer.special import AddedToken


@dataclass(frozen=True)
class LibraryFacts:
    """What the library does not tell of a tokenizer; the names are those of `TokenModel`."""

    added: tuple[AddedToken, ...]
    vocab_size: int
    byte_level: bool = True  # are tokens spelled in the byte alphabet of GPT-2
    whole_words: bool = False  # does every token but the first begin with a space unsaid
    drops_prefix: bool = False  # does a space in front of a text belong to the tokenizer
    prefix_after_control: bool = True
    default_named: dict[str, str] = field(default_factory=dict)
    default_prefix: tuple[int, ...] = ()
    default_suffix: tuple[int, ...] = ()
    tokenizer_class: str = "PreTrainedTokenizerFast"


class LibraryModel:
    """A `TokenModel` over the `tokenizers` library; `files` and `canonical` are the kind's.

    The library's tokenizer must leave control tokens in a text alone (`encode_special_tokens`) and
    have no post-processor: whole prompts are not its business, and spans then cover spaces too.
    """

    drops_leading_spaces = False
    spoken: frozenset[int] = frozenset()
    json_refusal = ""

    def __init__(
        self,
        backend: Backend,
        facts: LibraryFacts,
        bare: Backend | None = None,
        engine: LazyEngine | None = None,
    ) -> None:
        self._backend = backend
        self._engine = engine  # where there is one, no text begins with a dummy space
        self._bare = bare or backend  # a twin that puts no space in front of a text
        self._ids_to_bytes: dict[int, bytes] = {}
        self._added_ids = {token.token_id: token.text for token in facts.added}
        self._byte_level = facts.byte_level
        self._whole_words = facts.whole_words
        self._drops_prefix = facts.drops_prefix
        self.added = facts.added
        self.vocab_size = facts.vocab_size
        self.prefix_after_control = facts.prefix_after_control
        self.default_named = facts.default_named
        self.default_prefix = facts.default_prefix
        self.default_suffix = facts.default_suffix
        self.tokenizer_class = facts.tokenizer_class
        self.marks_each_byte = not facts.byte_level

    def token_id(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def plain_words(self) -> list[str]:
        """Return the added tokens that plain text can hold."""
        return [token.text for token in self.added if not token.special]

    def encode(self, text: str, *, prefix: bool) -> list[int]:
        """Encode text; control tokens in it stay ordinary text."""
        engine = self._engine.get([text]) if self._engine else None
        if engine is not None:
            return engine.encode(text, lambda text: self._library_ids(text, prefix))
        return self._library_ids(text, prefix)

    def _library_ids(self, text: str, prefix: bool = True) -> list[int]:
        backend = self._backend if prefix else self._bare
        # A batch of one: without the offsets that `encode` computes, it takes half the time.
        return list(backend.encode_batch_fast([text], add_special_tokens=False)[0].ids)

    def encode_spans(self, text: str, *, prefix: bool) -> Encoded:
        """As `encode`, with the characters of each token.

        Where the bytes of the tokens spell the text, they tell the characters too; the library's
        own way to find them takes several times as long.
        """
        if self._byte_level:
            ids = self.encode(text, prefix=prefix)
            pieces = [self.token_bytes(token_id, first=False) for token_id in ids]
            if b"".join(pieces) == text.encode("utf-8", "surrogatepass"):
                return Encoded(ids, character_spans(pieces))
        backend = self._backend if prefix else self._bare
        encoding = backend.encode(text, add_special_tokens=False)
        return Encoded(list(encoding.ids), list(encoding.offsets))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts on all cores."""
        engine = self._engine.get(texts) if self._engine else None
        if engine is not None:
            return engine.encode_batch(texts, self._library_ids)
        batch = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in batch]

    def token_bytes(self, token_id: int, *, first: bool) -> bytes:
        """Return the bytes of a token, without the dummy space where it opens a text."""
        data = self._ids_to_bytes.get(token_id)
        if data is None:
            data = self._ids_to_bytes[token_id] = self._read_bytes(token_id)
        if first and self._drops_prefix and data[:1] == b" " and not self._is_byte(token_id):
            return data[1:]
        return data

    def _is_byte(self, token_id: int) -> bool:
        return self._backend.id_to_token(token_id) == "<0x20>"

    def _read_bytes(self, token_id: int) -> bytes:
        if token_id in self._added_ids:
            return self._added_ids[token_id].encode()
        token = self._backend.id_to_token(token_id)
        if token is None:
            return b""
        if self._whole_words:
            return f" {token}".encode()
        return byte_level_bytes(token) if self._byte_level else piece_bytes(token)

    def tokenizer_json(self) -> dict[str, Any] | None:
        """Return this tokenizer as a `tokenizer.json` document; whole prompts get its prefix."""
        document: dict[str, Any] = json.loads(self._backend.to_str())
        texts = [self._added_ids[token_id] for token_id in self.default_prefix]
        if texts:
            document["post_processor"] = prefix_processor(texts, self.default_prefix)
        return document


def prefix_processor(texts: list[str], ids: tuple[int, ...]) -> dict[str, Any]:
    """Return the post-processor of a document whose prompts begin with control tokens."""
    processor = TemplateProcessing(
        single=[*texts, "$A"],
        pair=[*texts, "$A", *(f"{text}:1" for text in texts), "$B:1"],
        special_tokens=list(zip(texts, ids, strict=True)),
    )
    state: dict[str, Any] = json.loads(processor.__getstate__())
    return state

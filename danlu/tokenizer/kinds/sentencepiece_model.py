"""sentencepiece models: LLaMA 1/2, Baichuan 1/2, ChatGLM-6B, ChatGLM2/3-6B, GLM-10B Chinese.

Text is encoded by the sentencepiece library; what a family does around it is its `Wrapping`, found
by the file's name, the family, or the pieces themselves.
Source: sentencepiece 0.2 and its `sentencepiece_model.proto` (fields used:
ModelProto.pieces = 1, .piece = 1, .score = 2, .type = 3; ModelProto.normalizer_spec = 3,
.add_dummy_prefix = 3, .remove_extra_whitespaces = 4;
SentencePieceText.pieces = 2, .id = 2, .begin = 4, .end = 5).
"""

import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor

from danlu.errors import TokenizerError
from danlu.tokenizer.families import Dialect, dialect_of
from danlu.tokenizer.model import Encoded, TokenizerFolder
from danlu.tokenizer.piece_json import PieceTable, pieces_document, read_pieces, refusal
from danlu.tokenizer.pieces import SPACE, piece_bytes, spelled_spans
from danlu.tokenizer.protobuf import bytes_field, fields, float_field, number_field
from danlu.tokenizer.special import ADDED_FILE, CONFIG_FILE, AddedToken, Splitter, TokenizerSettings
from danlu.tokenizer.wrapping import (
    BAICHUAN,
    ICETK_BASE_PIECES,
    IMAGE_TOKENS,
    LLAMA,
    Prepared,
    Wrapping,
    chatglm,
    chatglm2,
    complete_icetk,
    glm_10b_chinese,
    prepare_icetk,
    read_icetk,
    write_icetk,
)

FILE = "tokenizer.model"
ICETK_FILE = "ice_text.model"
GLM_FILE = "cog-pretrain.model"
FILES = (FILE, ICETK_FILE, GLM_FILE)
PRIORITY = 10
PROTO_START = b"\x0a"  # field 1 (pieces); a tiktoken file of the same name starts with base64
CHATGLM2_PIECES = 64789
BAICHUAN_PIECE = "<reserved_102>"
CONTROL_PIECE, USER_DEFINED_PIECE = 3, 4
# Appended to a serialised model: a second normalizer_spec, merged into the first by protobuf.
NO_DUMMY_PREFIX = bytes_field(3, number_field(3, 0))


def claims(folder: TokenizerFolder) -> bool:
    """Is there one of the files, whatever it holds, that no other kind claimed?"""
    return _file_of(folder) is not None


def _file_of(folder: TokenizerFolder) -> Path | None:
    named = dialect_of(folder)
    wanted = {Dialect.CHATGLM: ICETK_FILE, Dialect.GLM_10B: GLM_FILE}.get(named or Dialect.LLAMA)
    names = [wanted, *FILES] if wanted is not None else list(FILES)
    return next((folder.path / name for name in names if (folder.path / name).is_file()), None)


def open_model(folder: TokenizerFolder) -> "SentencePieceModel":
    """Open the folder's model.

    Raises:
        TokenizerError: if it is not a sentencepiece model, or damaged.
    """
    path = _file_of(folder)
    assert path is not None, "claims() said so"
    proto = path.read_bytes()
    if not proto.startswith(PROTO_START):
        raise TokenizerError(
            f"'{path}' begins with {proto[:12]!r}; expected a sentencepiece model, or the rank "
            "file of a tiktoken tokenizer. Fetch it again (a pointer of Git LFS is no model)."
        )
    try:
        return _open(path, proto, folder)
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"'{path}' was refused by the sentencepiece library: {error}. Fetch it again."
        ) from None


def _open(path: Path, proto: bytes, folder: TokenizerFolder) -> "SentencePieceModel":
    library = SentencePieceProcessor(model_proto=proto)
    return SentencePieceModel(proto, _wrapping(path, library, folder), folder.settings, path.name)


def _wrapping(path: Path, library: SentencePieceProcessor, folder: TokenizerFolder) -> Wrapping:
    """Return the rules around the model: what its pieces say, then the names."""
    num_pieces = int(library.vocab_size())
    named = dialect_of(folder)
    if path.name == ICETK_FILE:
        base = IMAGE_TOKENS if num_pieces == ICETK_BASE_PIECES else 0
        return chatglm(_image_tokens(folder, base))
    if path.name == GLM_FILE:
        return glm_10b_chinese(num_pieces)
    if named is Dialect.BAICHUAN or not library.is_unknown(library.piece_to_id(BAICHUAN_PIECE)):
        return BAICHUAN
    if named in (Dialect.CHATGLM2, Dialect.CHATGLM) or num_pieces == CHATGLM2_PIECES:
        return chatglm2(num_pieces)
    return LLAMA


def _image_tokens(folder: TokenizerFolder, default: int) -> int:
    value = folder.settings.config.get("num_image_tokens", default)
    if type(value) is not int or value < 0:
        raise TokenizerError(
            f"'{folder.path}': {CONFIG_FILE} has num_image_tokens = {value!r}; expected a number."
        )
    return value


class SentencePieceModel:
    """A `TokenModel` over the sentencepiece library, with added tokens from the side files.

    Attributes:
        library: the sentencepiece library's processor, for who needs pieces, scores and types.
        wrapping: what the family does around it.
    """

    marks_each_byte = True

    def __init__(
        self, proto: bytes, wrapping: Wrapping, settings: TokenizerSettings, file: str = FILE
    ) -> None:
        self._published = (file, proto)
        self.proto = complete_icetk(proto) if wrapping.icetk else proto
        self.wrapping = wrapping
        self.library = SentencePieceProcessor(model_proto=self.proto)
        self._bare = SentencePieceProcessor(model_proto=self.proto + NO_DUMMY_PREFIX)
        self.num_pieces = int(self.library.vocab_size())
        self._texts: list[str] = self.library.id_to_piece(list(range(self.num_pieces)))
        self._opaque = frozenset(self._pieces_without_text())
        self._first_id = wrapping.first_id
        self._drops_prefix = self.library.encode("a") != self._bare.encode("a")
        self.drops_leading_spaces = self._drops_prefix and not self.library.encode(" ")
        self.added = tuple(self._all_added(settings))
        self._added_ids = {token.token_id: token for token in self.added}
        self._ids = {token.text: token.token_id for token in self.added}
        self._words = Splitter(token for token in self.added if not token.special)
        self._has_words = not all(token.special for token in self.added)
        self.spoken = frozenset(token.token_id for token in self._reserved_pieces())
        self.vocab_size = 1 + max(self._first_id + self.num_pieces - 1, *self._added_ids)
        self.prefix_after_control = settings.flag("legacy") is not False
        self.default_named = self._named()
        self.default_prefix = self._prefix()
        self.default_suffix = tuple(self._ids[text] for text in wrapping.suffix)
        self.tokenizer_class = wrapping.tokenizer_class

    def _pieces_without_text(self) -> Iterator[int]:
        """Yield the pieces that spell something else than they are called."""
        every = list(range(self.num_pieces))
        for asked in (self.library.is_byte, self.library.is_control, self.library.is_unknown):
            yield from (index for index, answer in enumerate(asked(every)) if answer)

    def _all_added(self, settings: TokenizerSettings) -> Iterator[AddedToken]:
        """Yield control pieces, reserved pieces, the family's tokens, the folder's."""
        yield from self._control_pieces()
        yield from self._reserved_pieces()
        declared = {token.token_id: token for token in self._declared(settings)}
        texts = {token.text: token_id for token_id, token in declared.items()}
        for token in self.wrapping.appended:
            if texts.get(token.text, token.token_id) == token.token_id:
                yield token
                if token.text in texts:
                    del declared[token.token_id]
        yield from declared.values()

    def _control_pieces(self) -> Iterator[AddedToken]:
        every = list(range(self.num_pieces))
        for index, is_control in enumerate(self.library.is_control(every)):
            unknown = index == self.library.unk_id() and self.wrapping.unknown is None
            if is_control or unknown:
                yield AddedToken(self._texts[index], self._first_id + index)

    def _reserved_pieces(self) -> Iterator[AddedToken]:
        pattern = self.wrapping.reserved
        if pattern is not None:
            for index, piece in enumerate(self._texts):
                if pattern.fullmatch(piece):
                    yield AddedToken(piece, self._first_id + index)

    def _named(self) -> dict[str, str]:
        if self.wrapping.named is not None:
            return dict(self.wrapping.named)
        library = self.library
        ids = {
            "bos_token": library.bos_id(),
            "eos_token": library.eos_id(),
            "pad_token": library.pad_id(),
            "unk_token": library.unk_id(),
        }
        return {name: library.id_to_piece(i) for name, i in ids.items() if i >= 0}

    def _prefix(self) -> tuple[int, ...]:
        if self.wrapping.prefix is not None:
            return tuple(self._ids[text] for text in self.wrapping.prefix)
        bos = int(self.library.bos_id())
        return (bos,) if bos >= 0 else ()  # what LlamaTokenizer does

    def _declared(self, settings: TokenizerSettings) -> Iterator[AddedToken]:
        """Yield what the side files add; pieces the model already has keep their meaning."""
        control = {*settings.named.values(), *settings.additional}
        for token in settings.declared:
            if token.token_id >= self._first_id + self.num_pieces:
                special = token.special or token.text in control
                yield AddedToken(token.text, token.token_id, special, token.lstrip, token.rstrip)

    def token_id(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""
        if token in self._ids:
            return self._ids[token]
        found = int(self.library.piece_to_id(token))
        return None if self.library.is_unknown(found) else self._first_id + found

    def encode(self, text: str, *, prefix: bool) -> list[int]:
        """Encode text; control tokens in it stay ordinary text."""
        if self._has_words:
            return self.encode_spans(text, prefix=prefix).ids
        processor = self.library if prefix else self._bare
        ids: list[int] = processor.encode(write_icetk(text) if self.wrapping.icetk else text)
        return [self._first_id + index for index in ids] if self._first_id else ids

    def encode_spans(self, text: str, *, prefix: bool) -> Encoded:
        """As `encode`, with the characters of each token."""
        encoded = Encoded([], [])
        for part in self._words.split(text):
            if part.token is not None:
                encoded.ids.append(part.token.token_id)
                encoded.spans.append((part.start, part.end))
                continue
            use_prefix = prefix and (part.start == 0 or self.prefix_after_control)
            plain = self._plain_spans(text[part.start : part.end], use_prefix)
            encoded.ids.extend(plain.ids)
            encoded.spans.extend((a + part.start, b + part.start) for a, b in plain.spans)
        return encoded

    def _plain_spans(self, text: str, prefix: bool) -> Encoded:
        return self._spelled_spans(text, prefix) or self._library_spans(text, prefix)

    def _spelled_spans(self, text: str, prefix: bool) -> Encoded | None:
        """As `_library_spans`, many times as fast, where the pieces spell the text as it is."""
        if self.wrapping.icetk:
            return None
        ids: list[int] = (self.library if prefix else self._bare).encode(text)
        if not self._opaque.isdisjoint(ids):
            return None
        pieces = [self._texts[index] for index in ids]
        spans = spelled_spans(text, pieces, self.drops_leading_spaces)
        if spans is None:
            return None
        return Encoded([self._first_id + index for index in ids], spans)

    def _library_spans(self, text: str, prefix: bool) -> Encoded:
        prepared = prepare_icetk(text) if self.wrapping.icetk else Prepared(text)
        processor = self.library if prefix else self._bare
        message = processor.encode(prepared.text, out_type="serialized_proto")
        pieces = list(_pieces(message))
        characters = _byte_to_character(prepared)
        return Encoded(
            [self._first_id + _number(piece, 2) for piece in pieces],
            [(characters[_number(piece, 4)], characters[_number(piece, 5)]) for piece in pieces],
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts on all cores."""
        if self._has_words:
            return [self.encode(text, prefix=True) for text in texts]
        prepared = [write_icetk(text) for text in texts] if self.wrapping.icetk else texts
        batch: list[list[int]] = self.library.encode(prepared)
        first = self._first_id
        return [[first + index for index in ids] for ids in batch] if first else batch

    def token_bytes(self, token_id: int, *, first: bool) -> bytes:
        """Return the bytes of a token, without the dummy space where it opens a text."""
        if token_id in self._added_ids:
            return self._added_ids[token_id].text.encode()
        index = token_id - self._first_id
        if not 0 <= index < self.num_pieces:
            return b""
        piece = self._texts[index]
        if index == self.library.unk_id():
            return (self.wrapping.unknown or piece).encode()
        white = read_icetk(piece) if self.wrapping.icetk else None
        if white is not None:
            return white.encode()
        if first and self._drops_prefix and piece.startswith(SPACE):
            piece = piece.lstrip(SPACE) if self.drops_leading_spaces else piece[1:]
        return piece_bytes(piece)

    def extended(
        self, tokens: Sequence[AddedToken], settings: TokenizerSettings
    ) -> "SentencePieceModel":
        """Return this model with further added tokens, which `settings` declare.

        They become pieces of the model, which its own library then finds inside a text, unless the
        family's tokens are numbered behind the pieces; then they stay beside it.
        """
        file, proto = self._published
        if self.vocab_size == self._first_id + self.num_pieces and not self.wrapping.icetk:
            proto += b"".join(_piece(token) for token in tokens)
        return SentencePieceModel(proto, self.wrapping, settings, file)

    def files(self) -> dict[str, bytes]:
        """Return the model, and `added_tokens.json` where the folder added tokens."""
        file, proto = self._published
        return {file: proto, **self._added_file()}

    def _added_file(self) -> dict[str, bytes]:
        first, own = self._first_id + self.num_pieces, set(self.wrapping.appended)
        extra = [token for token in self.added if token.token_id >= first and token not in own]
        if not extra:
            return {}
        lines = {token.text: token.token_id for token in extra}
        return {ADDED_FILE: json.dumps(lines, ensure_ascii=False, indent=2).encode()}

    def canonical(self) -> bytes:
        """Return the model and what was added to it."""
        return self.proto + repr(self.added).encode()

    def tokenizer_json(self) -> dict[str, Any] | None:
        """Return the same tokenizer as a `tokenizer.json` document, None if that cannot be."""
        if self.json_refusal:
            return None
        prefix = {self._text_of(token_id): token_id for token_id in self.default_prefix}
        return pieces_document(self.table, self.library, self.added, prefix)

    def _text_of(self, token_id: int) -> str:
        return self._added_ids[token_id].text

    @cached_property
    def json_refusal(self) -> str:
        """Why `tokenizer_json` returns None."""
        if self.wrapping.icetk:
            return "its white space is written as pieces by code around the sentencepiece model"
        return refusal(self.table)

    @cached_property
    def table(self) -> PieceTable:
        """The pieces with their scores and types, as the file says them."""
        return read_pieces(self.proto)


def _piece(token: AddedToken) -> bytes:
    """Return a piece as a part of a serialised model: a control piece, or one found as a whole."""
    kind = CONTROL_PIECE if token.special else USER_DEFINED_PIECE
    text = bytes_field(1, token.text.encode())
    return bytes_field(1, text + float_field(2, 0.0) + number_field(3, kind))


def _pieces(message: bytes) -> Iterator[dict[int, int | bytes]]:
    for number, value in fields(message):
        if number == 2 and isinstance(value, bytes):
            yield dict(fields(value))


def _number(piece: dict[int, int | bytes], field: int) -> int:
    return int(piece.get(field, 0))  # protobuf leaves zeros out


def _byte_to_character(prepared: Prepared) -> list[int]:
    """Return, for each UTF-8 offset, the offset in the original; inside a character, its start."""
    origins = prepared.origins or range(len(prepared.text) + 1)
    widths = [len(character.encode()) for character in prepared.text]
    offsets = [origins[index] for index, width in enumerate(widths) for _ in range(width)]
    return [*offsets, origins[-1]]

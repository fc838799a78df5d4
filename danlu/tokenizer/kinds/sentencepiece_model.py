"""`tokenizer.model` of sentencepiece, as LLaMA 1/2 and its relatives publish it.

Text is encoded by the sentencepiece library as it is. Source: sentencepiece 0.2 and its
`sentencepiece_model.proto` (fields used: ModelProto.normalizer_spec = 3, .add_dummy_prefix = 3;
SentencePieceText.pieces = 2, .begin = 4, .end = 5).
"""

import json
from collections.abc import Iterator

from sentencepiece import SentencePieceProcessor

from danlu.errors import TokenizerError
from danlu.tokenizer.model import Encoded, TokenizerFolder
from danlu.tokenizer.pieces import SPACE, piece_bytes
from danlu.tokenizer.special import ADDED_FILE, AddedToken, Splitter

FILE = "tokenizer.model"
FILES = (FILE,)
PRIORITY = 10
PROTO_START = b"\x0a"  # field 1 (pieces); a tiktoken file of the same name starts with base64
# Appended to a serialised model: a second normalizer_spec, merged into the first by protobuf.
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"


def claims(folder: TokenizerFolder) -> bool:
    """Is there a `tokenizer.model` that is a sentencepiece model?"""
    path = folder.path / FILE
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        return stream.read(1) == PROTO_START


def open_model(folder: TokenizerFolder) -> "SentencePieceModel":
    """Open the folder's `tokenizer.model`.

    Raises:
        TokenizerError: if the library refuses it.
    """
    path = folder.path / FILE
    try:
        return SentencePieceModel(path.read_bytes(), folder)
    except (RuntimeError, OSError) as error:
        raise TokenizerError(
            f"'{path}' was refused by the sentencepiece library: {error}. Fetch it again."
        ) from None


class SentencePieceModel:
    """A `TokenModel` over the sentencepiece library, with added tokens from the side files."""

    marks_each_byte = True

    def __init__(self, proto: bytes, folder: TokenizerFolder) -> None:
        self._proto = proto
        self._whole = SentencePieceProcessor(model_proto=proto)
        self._bare = SentencePieceProcessor(model_proto=proto + NO_DUMMY_PREFIX)
        self._num_pieces = int(self._whole.vocab_size())
        self._drops_prefix = self._whole.encode("a") != self._bare.encode("a")
        self.added = (*self._control_pieces(), *self._declared(folder))
        self._added_ids = {token.token_id: token for token in self.added}
        self._ids = {token.text: token.token_id for token in self.added}
        self._words = Splitter(token for token in self.added if not token.special)
        self._has_words = not all(token.special for token in self.added)
        self.vocab_size = 1 + max(self._num_pieces - 1, *self._added_ids)
        self.prefix_after_control = folder.settings.flag("legacy") is not False
        self.default_named = self._named()
        bos = int(self._whole.bos_id())
        self.default_prefix = (bos,) if bos >= 0 else ()  # what LlamaTokenizer does

    def _control_pieces(self) -> Iterator[AddedToken]:
        for token_id in range(self._num_pieces):
            if self._whole.is_control(token_id) or self._whole.is_unknown(token_id):
                yield AddedToken(self._whole.id_to_piece(token_id), token_id)

    def _named(self) -> dict[str, str]:
        library = self._whole
        ids = {
            "bos_token": library.bos_id(),
            "eos_token": library.eos_id(),
            "pad_token": library.pad_id(),
            "unk_token": library.unk_id(),
        }
        return {name: library.id_to_piece(i) for name, i in ids.items() if i >= 0}

    def _declared(self, folder: TokenizerFolder) -> Iterator[AddedToken]:
        """Yield what the side files add; pieces the model already has keep their meaning."""
        control = {*folder.settings.named.values(), *folder.settings.additional}
        for token in folder.settings.declared:
            if token.token_id >= self._num_pieces:
                special = token.special or token.text in control
                yield AddedToken(token.text, token.token_id, special, token.lstrip, token.rstrip)

    def token_id(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""
        if token in self._ids:
            return self._ids[token]
        found = int(self._whole.piece_to_id(token))
        return None if self._whole.is_unknown(found) else found

    def encode(self, text: str, *, prefix: bool) -> list[int]:
        """Encode text; control tokens in it stay ordinary text."""
        if self._has_words:
            return self.encode_spans(text, prefix=prefix).ids
        processor = self._whole if prefix else self._bare
        return [int(token_id) for token_id in processor.encode(text)]

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
        processor = self._whole if prefix else self._bare
        message = processor.encode(text, out_type="serialized_proto")
        pieces = list(_pieces(message))
        characters = _byte_to_character(text)
        return Encoded(
            [_number(piece, 2) for piece in pieces],
            [(characters[_number(piece, 4)], characters[_number(piece, 5)]) for piece in pieces],
        )

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts on all cores."""
        if self._has_words:
            return [self.encode(text, prefix=True) for text in texts]
        return [list(map(int, ids)) for ids in self._whole.encode(list(texts))]

    def token_bytes(self, token_id: int, *, first: bool) -> bytes:
        """Return the bytes of a token, without the dummy space where it opens a text."""
        if token_id in self._added_ids:
            return self._added_ids[token_id].text.encode()
        if not 0 <= token_id < self._num_pieces:
            return b""
        piece = self._whole.id_to_piece(token_id)
        if first and self._drops_prefix and piece.startswith(SPACE):
            piece = piece[1:]
        return piece_bytes(piece)

    def files(self) -> dict[str, bytes]:
        """Return `tokenizer.model`, and `added_tokens.json` where tokens were added."""
        return {FILE: self._proto, **self._added_file()}

    def _added_file(self) -> dict[str, bytes]:
        extra = [token for token in self.added if token.token_id >= self._num_pieces]
        if not extra:
            return {}
        lines = {token.text: token.token_id for token in extra}
        return {ADDED_FILE: json.dumps(lines, ensure_ascii=False, indent=2).encode()}

    def canonical(self) -> bytes:
        """Return the model and what was added to it."""
        return self._proto + repr(self.added).encode()


def _pieces(message: bytes) -> Iterator[dict[int, int | bytes]]:
    for number, value in _fields(message):
        if number == 2 and isinstance(value, bytes):
            yield dict(_fields(value))


def _number(piece: dict[int, int | bytes], field: int) -> int:
    return int(piece.get(field, 0))  # protobuf leaves zeros out


def _byte_to_character(text: str) -> list[int]:
    """Return, for each UTF-8 offset of `text`, the character offset; inside one, its start."""
    widths = [len(character.encode()) for character in text]
    offsets = [index for index, width in enumerate(widths) for _ in range(width)]
    return [*offsets, len(text)]


def _fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) of a protobuf message of numbers and byte strings."""
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        value, position = _varint(message, position)
        if key & 7 == 2:
            yield key >> 3, message[position : position + value]
            position += value
        else:
            yield key >> 3, value


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, position

"""`tokenizer.json`: anything the `tokenizers` library wrote (GPT-2, Qwen2/3, Llama 3, GLM-4, ours).

Text goes through the library; bytes of single tokens are worked out here, so that decoding can
stream. Source: the serialisation of `tokenizers` 0.21 to 0.23.
"""

import copy
import json
from typing import Any

from tokenizers import Tokenizer as Backend

from danlu.errors import TokenizerError
from danlu.tokenizer.model import Encoded, TokenizerFolder
from danlu.tokenizer.pieces import byte_level_bytes, piece_bytes
from danlu.tokenizer.special import AddedToken, added_token

FILE = "tokenizer.json"
FILES = (FILE,)
PRIORITY = 20


def claims(folder: TokenizerFolder) -> bool:
    """Is there a `tokenizer.json`?"""
    return (folder.path / FILE).is_file()


def open_model(folder: TokenizerFolder) -> "TokenizerJson":
    """Open the folder's `tokenizer.json`.

    Raises:
        TokenizerError: if it is not valid or decodes in a way that cannot be streamed.
    """
    path = folder.path / FILE
    try:
        return TokenizerJson(json.loads(path.read_text(encoding="utf-8")), folder)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TokenizerError(
            f"'{path}' is not a valid tokenizer.json: {error!r}. Fetch it again."
        ) from None


class TokenizerJson:
    """A `TokenModel` over the `tokenizers` library."""

    def __init__(self, document: dict[str, Any], folder: TokenizerFolder) -> None:
        self._document = document
        self._backend = _backend(document, folder)
        self._bare = _without_prefix(document, folder) or self._backend
        self._ids_to_bytes: dict[int, bytes] = {}
        entries = document.get("added_tokens") or []
        self.added = tuple(_added(entries, folder))
        self._added_ids = {token.token_id: token.text for token in self.added}
        self.vocab_size = 1 + max(_highest_id(document["model"]), *self._added_ids, -1)
        self.prefix_after_control = not _prefix_at_start_only(document)
        self.default_named: dict[str, str] = {}
        self.default_prefix = _template_prefix(document.get("post_processor"))
        style = _decoder_style(document.get("decoder"), folder)
        self._byte_level, self._drops_prefix = style
        self.marks_each_byte = not self._byte_level

    def token_id(self, token: str) -> int | None:
        """Return the id of a whole token, or None."""
        found = self._backend.token_to_id(token)
        return None if found is None else int(found)

    def encode(self, text: str, *, prefix: bool) -> list[int]:
        """Encode text; control tokens in it stay ordinary text."""
        backend = self._backend if prefix else self._bare
        return list(backend.encode(text, add_special_tokens=False).ids)

    def encode_spans(self, text: str, *, prefix: bool) -> Encoded:
        """As `encode`, with the characters of each token."""
        backend = self._backend if prefix else self._bare
        encoding = backend.encode(text, add_special_tokens=False)
        return Encoded(list(encoding.ids), list(encoding.offsets))

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """Encode many texts on all cores."""
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
        return byte_level_bytes(token) if self._byte_level else piece_bytes(token)

    def files(self) -> dict[str, bytes]:
        """Return `tokenizer.json`, readable."""
        text = json.dumps(self._document, ensure_ascii=False, indent=2)
        return {FILE: text.encode()}

    def canonical(self) -> bytes:
        """Return the JSON with sorted keys and no white space."""
        return json.dumps(self._document, sort_keys=True, separators=(",", ":")).encode()


def _backend(document: dict[str, Any], folder: TokenizerFolder) -> Backend:
    """Build the library's tokenizer so that control tokens in a text stay text."""
    try:
        backend = Backend.from_str(json.dumps(document))
    except Exception as error:  # the library raises bare Exception
        raise TokenizerError(
            f"'{folder.path / FILE}' was refused by the tokenizers library: {error}. "
            "Fetch it again, or update the tokenizers package if the file is newer than it."
        ) from None
    # Special handling of whole prompts is ours; without it, spans also cover leading spaces.
    backend.post_processor = None
    backend.no_truncation()
    backend.no_padding()
    known = {entry["content"] for entry in document.get("added_tokens") or []}
    backend.add_special_tokens([text for text in _control_texts(folder) if text in known])
    backend.encode_special_tokens = True
    return backend


def _control_texts(folder: TokenizerFolder) -> list[str]:
    return [*folder.settings.named.values(), *folder.settings.additional]


def _added(entries: list[dict[str, Any]], folder: TokenizerFolder) -> list[AddedToken]:
    """Return the added tokens; those the side files name as control tokens are special."""
    control = set(_control_texts(folder))
    forced = [
        {**entry, "special": True} if entry["content"] in control else entry for entry in entries
    ]
    return [added_token(int(entry["id"]), entry) for entry in forced]


def _without_prefix(document: dict[str, Any], folder: TokenizerFolder) -> Backend | None:
    """Return a twin that puts no space in front of a text; None if this one never does."""
    bare = copy.deepcopy({key: document.get(key) for key in ("normalizer", "pre_tokenizer")})
    adding = [step for step in _prefix_steps(bare) if _adds_prefix(step)]
    for step in adding:
        step.update(_NO_PREFIX[step["type"]])
    return _backend({**document, **bare}, folder) if adding else None


_NO_PREFIX: dict[str, dict[str, Any]] = {
    "Metaspace": {"prepend_scheme": "never"},
    "ByteLevel": {"add_prefix_space": False},
    "Prepend": {"prepend": ""},
}


def _prefix_steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    steps = _steps(document.get("normalizer"), "normalizers")
    return steps + _steps(document.get("pre_tokenizer"), "pretokenizers")


def _adds_prefix(step: dict[str, Any]) -> bool:
    return (
        (step["type"] == "Metaspace" and step.get("prepend_scheme", "always") != "never")
        or (step["type"] == "ByteLevel" and bool(step.get("add_prefix_space")))
        or step["type"] == "Prepend"
    )


def _prefix_at_start_only(document: dict[str, Any]) -> bool:
    return any(step.get("prepend_scheme") == "first" for step in _prefix_steps(document))


def _steps(part: dict[str, Any] | None, key: str) -> list[dict[str, Any]]:
    """Return the steps of a pipeline part: those of a Sequence, or the part alone."""
    if part is None:
        return []
    return list(part[key]) if part["type"] == "Sequence" else [part]


def _highest_id(model: dict[str, Any]) -> int:
    vocab = model["vocab"]
    return len(vocab) - 1 if isinstance(vocab, list) else max(vocab.values(), default=-1)


def _template_prefix(processor: dict[str, Any] | None) -> tuple[int, ...]:
    """Return the ids that a TemplateProcessing puts in front of a single text."""
    for step in _steps(processor, "processors"):
        if step["type"] == "TemplateProcessing":
            ids: list[int] = []
            for piece in step["single"]:
                if "SpecialToken" not in piece:
                    break
                ids += step["special_tokens"][piece["SpecialToken"]["id"]]["ids"]
            return tuple(ids)
    return ()


def _decoder_style(decoder: dict[str, Any] | None, folder: TokenizerFolder) -> tuple[bool, bool]:
    """Return (byte-level?, drops a leading space?).

    Raises:
        TokenizerError: for decoders that need more than the bytes of each token.
    """
    steps = _steps(decoder, "decoders")
    kinds = [step["type"] for step in steps]
    if kinds == ["ByteLevel"]:
        return True, False
    if steps and set(kinds) <= {"Replace", "ByteFallback", "Fuse", "Strip", "Metaspace"}:
        metaspace = any(step.get("prepend_scheme", "never") != "never" for step in steps)
        return False, metaspace or "Strip" in kinds
    raise TokenizerError(
        f"'{folder.path / FILE}' has the decoder {kinds or None}; expected ByteLevel or a "
        "sentencepiece-like chain (Replace, ByteFallback, Fuse, Strip, Metaspace). "
        "Other decoders cannot be streamed; this tokenizer is not of a generative model we know."
    )

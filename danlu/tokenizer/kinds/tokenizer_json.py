"""`tokenizer.json`: anything the `tokenizers` library wrote (GPT-2, Qwen2/3, Llama 3, GLM-4, ours).

Source: the serialisation of `tokenizers` 0.21 to 0.23.
"""

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer as Backend

from danlu.errors import TokenizerError
from danlu.files import parse_json
from danlu.tokenizer.library import LibraryFacts, LibraryModel
from danlu.tokenizer.model import TokenizerFolder
from danlu.tokenizer.special import JSON_FILE as FILE
from danlu.tokenizer.special import AddedToken, TokenizerSettings, added_token

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
        data = path.read_bytes()
        return TokenizerJson(parse_json(data.decode()), folder, data)
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise TokenizerError(
            f"'{path}' is not a valid tokenizer.json: {error!r}. Fetch it again."
        ) from None


class TokenizerJson(LibraryModel):
    """A `TokenModel` made from a document; `save` gives the file back as it was read.

    Args:
        document: what the file says.
        folder: where it is, with its side files.
        data: the file itself; None for a document that was never a file.
    """

    def __init__(
        self, document: dict[str, Any], folder: TokenizerFolder, data: bytes | None = None
    ) -> None:
        backend = _backend(document, folder)
        added = tuple(_added(document.get("added_tokens") or [], folder))
        whole_words = _is_whole_words(document)
        byte_level, drops_prefix = (
            (False, True) if whole_words else _decoder_style(document.get("decoder"), folder)
        )
        facts = LibraryFacts(
            added=added,
            vocab_size=1 + max(_highest_id(document["model"]), *(t.token_id for t in added), -1),
            byte_level=byte_level,
            whole_words=whole_words,
            drops_prefix=drops_prefix,
            prefix_after_control=not _prefix_at_start_only(document),
            default_prefix=_template_prefix(document.get("post_processor")),
        )
        super().__init__(backend, facts, _without_prefix(document, folder))
        self._data = data or json.dumps(document, ensure_ascii=False, indent=2).encode()

    def extended(
        self, tokens: Sequence[AddedToken], settings: TokenizerSettings
    ) -> "TokenizerJson":
        """Return this model with further added tokens."""
        document = json.loads(self._data)
        entries = [{"id": token.token_id, **token.entry()} for token in tokens]
        document["added_tokens"] = [*(document.get("added_tokens") or []), *entries]
        return TokenizerJson(document, TokenizerFolder(Path(settings.origin), settings, None))

    def files(self) -> dict[str, bytes]:
        """Return `tokenizer.json`."""
        return {FILE: self._data}

    def canonical(self) -> bytes:
        """Return the JSON with sorted keys and no white space."""
        document = json.loads(self._data)
        return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()

    def tokenizer_json(self) -> dict[str, Any] | None:
        """Return the document."""
        document: dict[str, Any] = json.loads(self._data)
        return document


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


def _is_whole_words(document: dict[str, Any]) -> bool:
    """Return whether tokens are words, which the library joins by spaces."""
    return document["model"].get("type") == "WordLevel" and not document.get("decoder")


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

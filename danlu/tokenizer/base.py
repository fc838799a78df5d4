"""The tokenizer every other package uses: text, control tokens and chats over one `TokenModel`."""

import hashlib
import itertools
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from danlu.errors import ChatFormatError, TokenizerError, did_you_mean
from danlu.files import atomic_file, write_json, write_text
from danlu.tokenizer.chat.chat_format import ChatFormat, ChatInput, Message, Rendered, Tool
from danlu.tokenizer.chat.formats import find_format, format_for, format_names, format_of_template
from danlu.tokenizer.chat.jinja_format import JinjaFormat
from danlu.tokenizer.chat.messages import without_training_keys
from danlu.tokenizer.chat.rendering import render_layout, with_spelled_controls
from danlu.tokenizer.incremental import IncrementalDecoder
from danlu.tokenizer.model import Encoded, TokenModel
from danlu.tokenizer.special import (
    CONFIG_FILE,
    JSON_FILE,
    TEMPLATE_FILE,
    AddedToken,
    Splitter,
    TokenizerSettings,
)

logger = logging.getLogger(__name__)

STOCK_KEYS = ("model_max_length", "padding_side", "truncation_side")


class Tokenizer:
    """Text to ids and back, and conversations to ids with roles and a loss mask.

    Built by `load_tokenizer` or `train_bpe`. Nothing changes after that, and every method may be
    called from several threads.

    Attributes:
        model: the kind of file behind it.
        vocab_size: highest id + 1.
        named: "eos_token" and its like -> control token.
        special_tokens: control token -> id.
        bos_id, eos_id, pad_id: ids, or None where the tokenizer has no such token.
        chat_format: name of the format `render_chat` uses, "jinja" for the folder's own template,
            None if there is none.
    """

    def __init__(self, model: TokenModel, settings: TokenizerSettings) -> None:
        self.model = model
        self.settings = settings
        self.vocab_size = model.vocab_size
        defaults = {n: t for n, t in model.default_named.items() if n not in settings.denied}
        self.named = defaults | settings.named
        named = self._named_ids()
        self.bos_id = named.get("bos_token")
        self.eos_id = named.get("eos_token")
        self.pad_id = named.get("pad_token")
        self._unk_id = named.get("unk_token")
        control = self._control_tokens(named)
        self.special_tokens = {text: token.token_id for text, token in control.items()}
        self.control_texts = {token.token_id: text for text, token in control.items()}
        self.control_splitter = Splitter(control.values())
        self._forbidden = set(self.control_texts) - {self._unk_id}
        self._unspoken = self._forbidden - model.spoken

    def _named_ids(self) -> dict[str, int]:
        """Return the ids of bos, eos, ... and complain about all that have none at once."""
        named = {name: self.model.token_id(text) for name, text in self.named.items()}
        missing = [f"{name} {self.named[name]!r}" for name, i in named.items() if i is None]
        if missing:
            raise TokenizerError(
                f"{self.settings.origin}: the vocabulary has no {', '.join(missing)}. "
                f"Expected every token named in {CONFIG_FILE} to exist; fix the name or set null."
            )
        return {name: token_id for name, token_id in named.items() if token_id is not None}

    def _control_tokens(self, named: dict[str, int]) -> dict[str, AddedToken]:
        """Return every control token by its text, ordered as declared."""
        control = {token.text: token for token in self.model.added if token.special}
        for name, token_id in named.items():
            control.setdefault(self.named[name], AddedToken(self.named[name], token_id))
        for text in self.settings.additional:
            found = self.model.token_id(text)
            if found is None:
                logger.warning("%s: the vocabulary has no %r", self.settings.origin, text)
            else:
                control.setdefault(text, AddedToken(text, found))
        return control

    def encode(self, text: str, allow_special: bool = False) -> list[int]:
        """Encode `text` without a BOS.

        Control tokens written in the text stay ordinary text, unless `allow_special`. One kind
        differs: the reserved pieces of Baichuan are read from text here, as its own code does, but
        never from the messages of a chat.
        """
        if allow_special:
            return self._encode_controls(text)
        return self.encode_plain(text)

    def encode_plain(self, text: str, *, prefix: bool = True) -> list[int]:
        """Encode text as text; `prefix` allows the dummy space some tokenizers put in front."""
        _check_characters(text)
        ids = self.model.encode(text, prefix=prefix)
        if self._unspoken.isdisjoint(ids):
            return ids
        return self._encode_broken(text, prefix).ids

    def encode_spans(self, text: str, *, prefix: bool = True) -> Encoded:
        """As `encode_plain`, with the characters of each token; what messages are encoded with."""
        _check_characters(text)
        encoded = self.model.encode_spans(text, prefix=prefix)
        if self._forbidden.isdisjoint(encoded.ids):
            return encoded
        return self._encode_broken(text, prefix)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode many texts at once on all cores; each as `encode(text)`."""
        for text in texts:
            _check_characters(text)
        batch = self.model.encode_batch(list(texts))
        return [
            ids if self._unspoken.isdisjoint(ids) else self.encode_plain(text)
            for text, ids in zip(texts, batch, strict=True)
        ]

    def _encode_controls(self, text: str) -> list[int]:
        ids: list[int] = []
        for part in self.control_splitter.split(text):
            if part.token is not None:
                ids.append(part.token.token_id)
            else:
                prefix = not ids or self.model.prefix_after_control
                ids += self.encode_plain(text[part.start : part.end], prefix=prefix)
        return ids

    def _encode_broken(self, text: str, prefix: bool) -> Encoded:
        """Encode text whose model would find a control token in it, cut inside that token.

        Unigram vocabularies hold their control tokens as pieces; a cut after the first character of
        each keeps them apart.
        """
        cuts = [0, *(start + 1 for start in self.control_splitter.starts(text)), len(text)]
        joined = Encoded([], [])
        for start, end in itertools.pairwise(cuts):
            part = self.model.encode_spans(text[start:end], prefix=prefix and start == 0)
            joined.ids.extend(part.ids)
            joined.spans.extend((a + start, b + start) for a, b in part.spans)
        found = self._forbidden.intersection(joined.ids)
        if found:
            names = sorted(self.control_texts[token_id] for token_id in found)
            raise TokenizerError(
                f"{self.settings.origin}: plain text would become the control token {names}. "
                "Expected control tokens only where they are meant; remove it from the text."
            )
        return joined

    def decode(self, ids: Iterable[int], skip_special: bool = False) -> str:
        """Return the text of `ids`; invalid UTF-8 becomes U+FFFD, ids without token nothing.

        Raises:
            TokenizerError: for a negative id.
        """
        decoder = IncrementalDecoder(self, skip_special)
        return "".join([decoder.push(token_id) for token_id in ids]) + decoder.finish()

    def prompt_prefix(self) -> list[int]:
        """Return the ids in front of a raw prompt: `[bos]` where the tokenizer adds one, or []."""
        add_bos = self.settings.flag("add_bos_token")
        if add_bos is None:
            return list(self.model.default_prefix)
        return [self.bos_id] if add_bos and self.bos_id is not None else []

    def prompt_suffix(self) -> list[int]:
        """Return the ids behind a raw prompt, as ChatGLM-6B and GLM have them; mostly []."""
        return list(self.model.default_suffix)

    def encode_prompt(self, text: str) -> list[int]:
        """Encode a raw prompt with all that the model expects around it."""
        return [*self.prompt_prefix(), *self.encode(text), *self.prompt_suffix()]

    @property
    def chat_format(self) -> str | None:
        """Name of the format used by default: a built-in name, "jinja" or None."""
        return self._own_format.name if self._own_format else None

    @cached_property
    def _own_format(self) -> ChatFormat | None:
        templates = self.settings.templates()
        if not templates:
            name = self.settings.chat_format
            return find_format(name) if name is not None else None
        return format_of_template(templates) or JinjaFormat(templates, self.settings.origin)

    def format_of(self, name: str | None = None) -> ChatFormat:
        """Return the chat format of that name or file, the tokenizer's own without one.

        Raises:
            TokenizerError: if there is none.
        """
        if name is not None:
            return format_for(name)
        if self._own_format is None:
            raise TokenizerError(
                f"{self.settings.origin} has no chat template (no {TEMPLATE_FILE}, no "
                f"chat_template in {CONFIG_FILE}). Name one with format= (--format; in a run file "
                "data.chat_format): a built-in format, or a .jinja or .json file."
            )
        return self._own_format

    def with_chat_format(self, format: str) -> "Tokenizer":
        """Return this tokenizer with another chat format as its own, which `save` writes.

        It is saved as its Jinja template, which other tools read too; a built-in format without
        one is saved by its name.

        Raises:
            TokenizerError: if there is no such format, or nothing that could be saved.
        """
        chosen = format_for(format)
        if chosen.template is not None:
            return Tokenizer(self.model, self.settings.with_template(chosen.template))
        if format not in format_names():
            raise TokenizerError(
                f"The chat format {format!r} has no Jinja template, so it cannot be saved with "
                "the tokenizer. Pass it as format= where it is needed."
            )
        return Tokenizer(self.model, self.settings.with_chat_format(format))

    def stop_ids(self, format: str | None = None) -> list[int]:
        """Return the ids that end an answer: eos, and the end of a turn of the chat format."""
        stops = [] if self.eos_id is None else [self.eos_id]
        if format is not None or self.chat_format is not None:
            stops += [self.control_id(text) for text in self.format_of(format).end_of_turn(self)]
        return list(dict.fromkeys(stops))

    def stop_texts(self, format: str | None = None) -> list[str]:
        """Return the texts that end an answer of the chat format, beside the stop ids."""
        if format is None and self.chat_format is None:
            return []
        return list(self.format_of(format).stop_texts)

    def control_id(self, text: str) -> int:
        """Return the id of a token that a chat format needs.

        Raises:
            ChatFormatError: if the vocabulary has no such token.
        """
        token_id = self.special_tokens.get(text)
        if token_id is None:
            token_id = self.model.token_id(text)
        if token_id is None:
            raise ChatFormatError(
                f"{self.settings.origin} has no token {text!r}, which the chat format needs."
                f"{did_you_mean(text, self.special_tokens)} Choose another format, or add it with "
                "`danlu tokenizer extend`."
            )
        return token_id

    def render_chat(
        self,
        messages: Sequence[Message],
        tools: Sequence[Tool] | None = None,
        format: str | None = None,
        add_generation_prompt: bool = True,
        *,
        allow_special: bool = False,
        template_options: Mapping[str, Any] | None = None,
        learned_turns: Collection[int] | None = None,
    ) -> Rendered:
        """Turn a conversation into ids, the one way for training, evaluation and serving.

        Only the format puts control tokens in; the same strings inside a message stay text. The
        loss mask covers what the assistant writes, its end-of-turn tokens included, never the
        header. Text is cut where the mask begins, so a prompt's ids are a prefix of the training
        ids.

        Args:
            messages: `{"role": ..., "content": ...}` in order; what a message says of training
                (`loss`, `weight`) is not shown.
            tools: JSON schemas of functions, for templates that know tools.
            format: a built-in name, or the path of a .jinja file or a chat_template.json; default:
                the tokenizer's own.
            add_generation_prompt: open an assistant turn at the end.
            allow_special: let control tokens that a message spells become control tokens, as some
                families' own code does; never for text of people who are not trusted.
            template_options: what the format leaves open, such as `enable_thinking`.
            learned_turns: indices of the messages whose loss mask is needed, None for all. Others
                may be without where a template writes them differently once later ones follow.

        Raises:
            TokenizerError: for a conversation or template that cannot be rendered, or options that
                the format does not read.
        """
        shown = without_training_keys(messages)
        options = dict(template_options or {})
        chat = ChatInput(shown, add_generation_prompt, tools, options, learned_turns)
        layout = self.format_of(format).layout(self, chat)
        return render_layout(self, with_spelled_controls(self, layout) if allow_special else layout)

    def fingerprint(self) -> str:
        """Return a sha256 over the vocabulary, control tokens, templates and chat format.

        It is the same after saving and loading, and for files that differ in layout only.
        """
        settings = self.settings
        facts = {
            "named": self.named,
            "special_tokens": self.special_tokens,
            "prompt_prefix": self.prompt_prefix(),
            "templates": settings.templates(),
            "chat_format": self.chat_format,
        }
        if suffix := self.prompt_suffix():  # few have one; the others keep their fingerprints
            facts["prompt_suffix"] = suffix
        digest = hashlib.sha256(self.model.canonical())
        digest.update(json.dumps(facts, sort_keys=True).encode())
        return digest.hexdigest()

    def save(self, folder: str | Path) -> None:
        """Write the tokenizer into `folder`, what was published byte for byte.

        Stock transformers opens it with the same ids where the format is its own.

        Raises:
            OutputError: if the folder cannot be written.
        """
        files = self.model.files() | self.settings.files(self._own_facts())
        for name, data in files.items():
            with atomic_file(Path(folder) / name) as temporary:
                temporary.write_bytes(data)

    def _own_facts(self) -> dict[str, Any]:
        """Return the `tokenizer_config.json` of a folder that came without one."""
        prefix = self.prompt_prefix()
        return {
            "tokenizer_class": self.model.tokenizer_class,
            **({"add_bos_token": bool(prefix)} if prefix in ([], [self.bos_id]) else {}),
            **self.named,
            "added_tokens_decoder": {str(t.token_id): t.entry() for t in self.model.added},
        }

    def save_tokenizer_json(self, folder: str | Path) -> None:
        """Write the tokenizer as stock tools read it, whatever kind of file it came from.

        `tokenizer.json`, `tokenizer_config.json` and the chat template, if it has one.

        Raises:
            TokenizerError: if that format cannot say the tokenizer exactly.
            OutputError: if the folder cannot be written.
        """
        document = self.model.tokenizer_json()
        if document is None:
            raise TokenizerError(
                f"{self.settings.origin} cannot be written as a tokenizer.json with the same ids: "
                f"{self.model.json_refusal}. Keep its own files; `danlu` reads them everywhere."
            )
        path = Path(folder) / JSON_FILE
        write_text(path, json.dumps(document, ensure_ascii=False, indent=2))
        write_json(path.with_name(CONFIG_FILE), self._stock_config())
        template = self.stock_template()
        if template is not None:
            write_text(path.with_name(TEMPLATE_FILE), template)

    def stock_template(self) -> str | None:
        """Return the Jinja template that writes the tokenizer's chats, None if there is none."""
        return self._own_format.template if self._own_format else None

    def _stock_config(self) -> dict[str, Any]:
        """Return a `tokenizer_config.json` that needs no code and no class of a family."""
        kept = {k: v for k, v in self.settings.config.items() if k in STOCK_KEYS}
        return {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "clean_up_tokenization_spaces": False,
            **kept,
            **self.named,
        }


def _check_characters(text: str) -> None:
    """Raise `TokenizerError` for what is no character, which libraries crash at or replace."""
    if text.isascii():
        return
    try:
        text.encode()
    except UnicodeEncodeError as error:
        near = text[max(0, error.start - 20) : error.end + 20]
        raise TokenizerError(
            f"The text has half of a surrogate pair, or a byte that is not UTF-8, in {near!r}. "
            "Expected characters. Remove it, or decode the text as what it was written in."
        ) from None

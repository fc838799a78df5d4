"""Control tokens: what a folder declares about them, and finding them in text.

Source: `tokenizer_config.json`, `special_tokens_map.json` and `added_tokens.json` as written by
transformers (4.x and 5.x).
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from danlu.errors import TokenizerError
from danlu.files import parse_json
from danlu.tokenizer.chat.template_json import templates_in_json

NAMED = ("bos_token", "eos_token", "pad_token", "unk_token")
CONFIG_FILE = "tokenizer_config.json"
MAP_FILE = "special_tokens_map.json"
ADDED_FILE = "added_tokens.json"
TEMPLATE_FILE = "chat_template.jinja"
TEMPLATE_JSON_FILE = "chat_template.json"
JSON_FILE = "tokenizer.json"
SIDE_FILES = (CONFIG_FILE, MAP_FILE, ADDED_FILE, TEMPLATE_FILE)
FORMAT_KEY = "chat_format"  # our addition to tokenizer_config.json


@dataclass(frozen=True)
class AddedToken:
    """A token matched as a whole string before anything else is done to a text."""

    text: str
    token_id: int
    special: bool = True  # a control token, which plain text can never become
    lstrip: bool = False  # takes the white space before it along
    rstrip: bool = False
    single_word: bool = False

    def entry(self) -> dict[str, Any]:
        """Return the token as `added_tokens` and `added_tokens_decoder` describe it."""
        return {
            "content": self.text,
            "single_word": self.single_word,
            "lstrip": self.lstrip,
            "rstrip": self.rstrip,
            "normalized": False,
            "special": self.special,
        }


@dataclass(frozen=True)
class Part:
    """A stretch of text: `token` says that it is one added token, None that it is plain."""

    start: int
    end: int
    token: AddedToken | None


class Splitter:
    """Cuts text at added tokens, longest match first."""

    def __init__(self, tokens: Iterable[AddedToken]) -> None:
        ordered = sorted(tokens, key=lambda token: (-len(token.text), token.text))
        self._by_group = {f"t{index}": token for index, token in enumerate(ordered)}
        alternatives = [
            f"{_before(token)}(?P<{group}>{re.escape(token.text)}){_after(token)}"
            for group, token in self._by_group.items()
        ]
        self._pattern = re.compile("|".join(alternatives)) if alternatives else None
        starts = "|".join(re.escape(token.text) for token in ordered)
        self._starts = re.compile(f"(?=(?:{starts}))") if ordered else None

    def split(self, text: str) -> Iterator[Part]:
        """Yield the parts of `text` in order; together they cover it."""
        position = 0
        for match in self._pattern.finditer(text) if self._pattern else ():
            if match.start() > position:
                yield Part(position, match.start(), None)
            yield Part(match.start(), match.end(), self._by_group[match.lastgroup or ""])
            position = match.end()
        if position < len(text):
            yield Part(position, len(text), None)

    def starts(self, text: str) -> list[int]:
        """Return every position where some token begins, overlapping ones too."""
        return [match.start() for match in self._starts.finditer(text)] if self._starts else []


def _before(token: AddedToken) -> str:
    return (r"\s*" if token.lstrip else "") + (r"(?<!\w)" if token.single_word else "")


def _after(token: AddedToken) -> str:
    return (r"(?!\w)" if token.single_word else "") + (r"\s*" if token.rstrip else "")


@dataclass(frozen=True)
class TokenizerSettings:
    """What the side files of a tokenizer folder say; `config` is kept as read, to save it again."""

    config: dict[str, Any] = field(default_factory=dict)
    named: dict[str, str] = field(default_factory=dict)  # "eos_token" -> "</s>"
    denied: frozenset[str] = frozenset()  # names that are null: there is no such token
    additional: tuple[str, ...] = ()  # further control tokens
    declared: tuple[AddedToken, ...] = ()  # added_tokens_decoder and added_tokens.json
    template: str | None = None  # content of chat_template.jinja
    published: Mapping[str, bytes] = field(default_factory=dict)  # side files as read
    origin: str = "the tokenizer"

    def flag(self, name: str) -> bool | None:
        """Return a true/false setting, None where the folder does not say.

        Raises:
            TokenizerError: if it is something else.
        """
        value = self.config.get(name)
        if value is not None and not isinstance(value, bool):
            raise TokenizerError(
                f"{self.origin}: {CONFIG_FILE} has {name} = {value!r}; expected true or false."
            )
        return value

    @property
    def chat_format(self) -> str | None:
        """The built-in format that a tokenizer without a template was given.

        Raises:
            TokenizerError: if it is not a name.
        """
        value = self.config.get(FORMAT_KEY)
        if value is not None and not isinstance(value, str):
            raise TokenizerError(
                f"{self.origin}: {CONFIG_FILE} has {FORMAT_KEY} = {value!r}; expected a name."
            )
        return value

    def with_template(self, template: str) -> "TokenizerSettings":
        """Return the settings with this chat template instead of the folder's."""
        told = ("chat_template", FORMAT_KEY)
        config = {key: value for key, value in self.config.items() if key not in told}
        return replace(self, config=config, template=template)

    def with_chat_format(self, name: str) -> "TokenizerSettings":
        """Return the settings with a built-in chat format instead of the folder's template."""
        config = {key: value for key, value in self.config.items() if key != "chat_template"}
        return replace(self, config=config | {FORMAT_KEY: name}, template=None)

    def saved_config(self) -> dict[str, Any]:
        """Return the `tokenizer_config.json` that says what all the side files said."""
        extra = {"additional_special_tokens": list(self.additional)} if self.additional else {}
        return extra | self.config | self.named

    def files(self, facts: Mapping[str, Any]) -> dict[str, bytes]:
        """Return the side files by name: as published where they say what these settings say.

        Args:
            facts: what `tokenizer_config.json` says where the folder had none; of a folder's own
                that does not name a class, the "tokenizer_class".
        """
        kept = (MAP_FILE, ADDED_FILE)
        files = {name: self.published[name] for name in kept if name in self.published}
        files[CONFIG_FILE] = self._config_file(facts)
        if self.template is not None:
            files[TEMPLATE_FILE] = self._template_file(self.template)
        return files

    def _config_file(self, facts: Mapping[str, Any]) -> bytes:
        published = self.published.get(CONFIG_FILE)
        told = "tokenizer_class" in self.config
        if published is not None and told and json.loads(published) == self.config:
            return published
        known = facts if published is None else {"tokenizer_class": facts["tokenizer_class"]}
        config = {**known, **self.saved_config()}
        return f"{json.dumps(config, indent=2, ensure_ascii=False)}\n".encode()

    def _template_file(self, template: str) -> bytes:
        published = self.published.get(TEMPLATE_FILE, b"")
        return published if _as_text(published) == template else template.encode()

    def templates(self) -> dict[str, str]:
        """Return the chat templates by name; `chat_template.jinja` wins over the config's."""
        if self.template is not None:
            return {"default": self.template}
        value = self.config.get("chat_template")
        if isinstance(value, str):
            return {"default": value}
        if isinstance(value, list):
            return {str(entry["name"]): str(entry["template"]) for entry in value}
        return {}


def read_settings(folder: Path, family: str | None = None) -> TokenizerSettings:
    """Read the side files of a tokenizer folder; each may be absent.

    Args:
        folder: the folder.
        family: whose tokens to take where `added_tokens.json` lists those of several models.

    Raises:
        TokenizerError: if one cannot be read, or holds something else than expected.
    """
    try:
        return _read_settings(folder, family)
    except (KeyError, TypeError, ValueError, AttributeError, OSError) as error:
        raise TokenizerError(
            f"A side file of the tokenizer in '{folder}' ({', '.join(SIDE_FILES)}) is not as "
            f"expected: {error!r}. "
            "Fetch them again."
        ) from None


def _read_settings(folder: Path, family: str | None) -> TokenizerSettings:
    config = read_json_object(folder / CONFIG_FILE)
    _check_templates(config.get("chat_template"))
    mapped = {**read_json_object(folder / MAP_FILE), **config}
    extra = mapped.get("additional_special_tokens") or mapped.get("extra_special_tokens") or []
    added = _added_tokens(folder / ADDED_FILE, family)
    return TokenizerSettings(
        config=config,
        named={name: _text_of(mapped[name]) for name in NAMED if mapped.get(name)},
        denied=frozenset(name for name in NAMED if name in mapped and not mapped[name]),
        additional=tuple(_text_of(entry) for entry in _values(extra)),
        declared=tuple(_declared(config, added)),
        template=_template(folder, "chat_template" in config),
        published=_published(folder, added),
        origin=str(folder),
    )


def _template(folder: Path, is_in_config: bool) -> str | None:
    """Return the folder's template file; one in JSON counts where there is no other."""
    path, in_json = folder / TEMPLATE_FILE, folder / TEMPLATE_JSON_FILE
    if path.is_file():
        return path.read_text(encoding="utf-8")
    if in_json.is_file() and not is_in_config:
        found = templates_in_json(in_json.read_text(encoding="utf-8"), str(in_json))
        return found.get("default")
    return None


def _check_templates(value: Any) -> None:
    named = isinstance(value, list) and all(
        isinstance(entry, dict) and {"name", "template"} <= set(entry) for entry in value
    )
    if not (value is None or isinstance(value, str) or named):
        raise ValueError(
            f"chat_template is {value!r:.60}, expected text or a list of name and template"
        )


def read_json_object(path: Path) -> dict[str, Any]:
    """Return the JSON object in `path`, or an empty one if there is no such file."""
    return json_object(path, path.read_bytes()) if path.is_file() else {}


def json_object(path: Path, data: bytes) -> dict[str, Any]:
    """Return the JSON object in a file that was read.

    Raises:
        TokenizerError: if it is none.
    """
    try:
        value = parse_json(data.decode())
    except ValueError as error:
        raise TokenizerError(f"'{path}' cannot be read as JSON: {error}. Fetch it again.") from None
    if not isinstance(value, dict):
        raise TokenizerError(f"'{path}' holds a {type(value).__name__}; expected a JSON object.")
    return value


def _added_tokens(path: Path, family: str | None) -> dict[str, Any]:
    """Return `added_tokens.json`; of one with a section a model, the family's or the last."""
    found = {
        key: value for key, value in read_json_object(path).items() if not _is_note(key, value)
    }
    if not found or not all(isinstance(value, dict) for value in found.values()):
        return found
    by_name = {same_spelling(name): section for name, section in found.items()}
    section: dict[str, Any] = by_name.get(same_spelling(family or ""), list(found.values())[-1])
    return section


def _published(folder: Path, added: dict[str, Any]) -> dict[str, bytes]:
    """Return the side files as they are; of one with sections only the section that was taken."""
    files = {name: (folder / name).read_bytes() for name in SIDE_FILES if (folder / name).is_file()}
    if ADDED_FILE in files and json.loads(files[ADDED_FILE]) != added:
        files[ADDED_FILE] = json.dumps(added, indent=2, ensure_ascii=False).encode()
    return files


def _is_note(key: str, value: Any) -> bool:
    return key.startswith("_") and isinstance(value, str)


def same_spelling(name: str) -> str:
    """Return a family's name as all its spellings are: lower case, "-" and "." as "_"."""
    return name.lower().replace("-", "_").replace(".", "_")


def _values(extra: Any) -> list[Any]:
    return list(extra.values()) if isinstance(extra, dict) else list(extra)


def _as_text(data: bytes) -> str:
    return data.decode().replace("\r\n", "\n")  # as text files are read


def _text_of(entry: Any) -> str:
    return str(entry["content"]) if isinstance(entry, dict) else str(entry)


def _declared(config: dict[str, Any], added: dict[str, Any]) -> Iterator[AddedToken]:
    decoder = config.get("added_tokens_decoder") or {}
    for token_id, entry in decoder.items():
        yield added_token(int(token_id), entry)
    known = {entry["content"] for entry in decoder.values()}
    for text, token_id in added.items():
        if text not in known:  # the old file has no flags: everything in it was a control token
            yield AddedToken(text, int(token_id))


def added_token(token_id: int, entry: dict[str, Any]) -> AddedToken:
    """Return the token an `added_tokens` entry describes."""
    return AddedToken(
        text=entry["content"],
        token_id=token_id,
        special=bool(entry.get("special", True)),
        lstrip=bool(entry.get("lstrip", False)),
        rstrip=bool(entry.get("rstrip", False)),
        single_word=bool(entry.get("single_word", False)),
    )

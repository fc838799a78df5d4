"""A model family: how its config is read, how its tensors are named, what its folders look like."""

import importlib
import pkgutil
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any, TypeVar

from danlu.errors import (
    CheckpointError,
    ShapeError,
    UnsupportedModelError,
    bullet_list,
    did_you_mean,
)
from danlu.models.config import DecoderConfig
from danlu.weights.rules import Ignore, Rule

T = TypeVar("T")
_REQUIRED = object()

# What every published config.json may carry and no decoder needs.
COMMON_KEYS: Mapping[str, str] = {
    "architectures": "read when the family is chosen",
    "model_type": "read when the family is chosen",
    "auto_map": "names code of the publisher, which is never run",
    "custom_pipelines": "names code of the publisher, which is never run",
    "_name_or_path": "where the publisher kept it",
    "_attn_implementation": "how another tool computes attention",
    "_attn_implementation_autoset": "how another tool computes attention",
    "transformers_version": "who wrote the file",
    "torch_dtype": "the caller chooses the dtype",
    "dtype": "the caller chooses the dtype",
    "use_cache": "the caller decides",
    "initializer_range": "weights are loaded, not drawn",
    "bos_token_id": "the tokenizer's business",
    "eos_token_id": "the tokenizer's business",
    "pad_token_id": "the tokenizer's business",
    "unk_token_id": "the tokenizer's business",
    "bos_token": "the tokenizer's business",
    "eos_token": "the tokenizer's business",
    "pad_token": "the tokenizer's business",
    "pretraining_tp": "splits products without changing them",
    "quantization_config": "read when the weights are loaded",
    "is_decoder": "always true here",
    "return_dict": "an option of another tool's output",
    "output_attentions": "an option of another tool's output",
    "output_hidden_states": "an option of another tool's output",
    "chunk_size_feed_forward": "an option of another tool",
    "problem_type": "an option of another tool",
    "id2label": "labels of a classifier",
    "label2id": "labels of a classifier",
    "is_encoder_decoder": "always false here",
}


class RawConfig:
    """A config.json being read: each key is taken once, and what is left over is an error."""

    def __init__(self, values: Mapping[str, Any], ignored: Mapping[str, str]) -> None:
        self._values = dict(values)
        self._ignored = {**COMMON_KEYS, **ignored}
        self._taken: set[str] = set()
        self._problems: list[str] = []

    def take(self, *names: str, default: Any = _REQUIRED, kind: type[T] | None = None) -> Any:
        """Return the value of the first spelling that is present (null counts as absent).

        A missing key without a default, or a value of another type than `kind`, is remembered and
        reported by `finish` together with everything else that is wrong.
        """
        self._taken.update(names)
        for name in names:
            value = self._values.get(name)
            if value is not None:
                return self._checked(name, value, kind)
        if default is _REQUIRED:
            self._problems.append(f"the key {' or '.join(map(repr, names))} is missing")
            return kind() if kind else None
        return default

    def _checked(self, name: str, value: Any, kind: type[T] | None) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if kind is not None and type(value) is not kind:
            self._problems.append(f"{name!r} is {value!r}; expected a {kind.__name__}")
            return kind()
        return value

    def expect(self, name: str, *allowed: object) -> None:
        """Take a key that may be absent or null; any value but `allowed` is a problem."""
        value = self.take(name, default=None)
        if value is not None and value not in allowed:
            known = " or ".join(repr(value) for value in allowed) or "null"
            self._problems.append(
                f"{name!r} is {value!r}, which is not supported; expected {known}"
            )

    def problem(self, text: str) -> None:
        """Remember something that is wrong, for `finish`."""
        self._problems.append(text)

    def size(self, *names: str, default: Any = _REQUIRED) -> int:
        """Take a positive integer."""
        value: int = self.take(*names, default=default, kind=int)
        if type(value) is int and value <= 0 and any(name in self._values for name in names):
            self._problems.append(f"{names[0]!r} is {value}; expected a positive number")
        return max(value, 1) if type(value) is int else value

    def finish(self, family: str) -> None:
        """Raise one error with everything that is wrong, unknown keys included."""
        known = self._taken | self._ignored.keys()
        for name in sorted(self._values.keys() - known):
            self._problems.append(f"unknown key {name!r}.{did_you_mean(name, known)}")
        if self._problems:
            raise CheckpointError(
                f"config.json does not describe a model of family {family!r}:"
                f"{bullet_list(self._problems)}\n"
                "Expected the keys of a published checkpoint of this family: correct these."
            )


@dataclass(frozen=True)
class Reexpressed:
    """A checkpoint said as another architecture that computes the same.

    Attributes:
        family: whose names and layout the tensors get.
        config: its config.json.
        notes: what its user must know, such as a length up to which it is valid.
    """

    family: str
    config: Mapping[str, Any]
    notes: tuple[str, ...] = ()


Reexpress = Callable[[Mapping[str, Any], DecoderConfig], Reexpressed]


def no_extra_tensors(values: Mapping[str, Any]) -> tuple[Ignore, ...]:
    """Return (): whatever config.json says, there are no further tensors to ignore."""
    return ()


def no_chat_format(values: Mapping[str, Any]) -> None:
    """Return None: checkpoints of this family bring their own chat template, or have none."""


def always(name: str) -> Callable[[Mapping[str, Any]], str]:
    """Return the rule that every checkpoint of a family uses the chat format `name`."""
    return lambda values: name


@dataclass(frozen=True)
class Family:
    """Everything that is particular to one family.

    Attributes:
        summary: one line for `danlu models`.
        matches: whether a config.json is of this family.
        read_config: sizes and parts from a config.json.
        rules: what differs from Llama-style tensor names.
        tiny: a config.json of a model small enough for tests (2 layers).
        ignored_keys: config keys that change nothing, with the reason.
        ignored_tensors: tensors that are no parameters, with the reason.
        extra_tensors: further ones that a checkpoint has by its config.json.
        optional_prefix: published names are found with and without it.
        aliases: other names a user may know it by, in the spelling of `family_name`.
        chat_format: name of the built-in chat format of checkpoints (by config.json) that carry no
            template of their own, or None.
        exports: how a checkpoint (its config.json and decoder config) is said as another
            architecture, by target.
        not_exported: why there is no target "transformers".
    """

    summary: str
    matches: Callable[[Mapping[str, Any]], bool]
    read_config: Callable[[RawConfig], DecoderConfig]
    rules: Callable[[DecoderConfig], tuple[Rule, ...]]
    tiny: Callable[[], dict[str, Any]]
    ignored_keys: Mapping[str, str]
    ignored_tensors: tuple[Ignore, ...] = ()
    extra_tensors: Callable[[Mapping[str, Any]], tuple[Ignore, ...]] = no_extra_tensors
    optional_prefix: str = ""
    aliases: tuple[str, ...] = ()
    chat_format: Callable[[Mapping[str, Any]], str | None] = no_chat_format
    exports: Mapping[str, Reexpress] = field(default_factory=dict)
    not_exported: str = ""

    def ignores(self, tensor: str, values: Mapping[str, Any]) -> bool:
        """Return whether a tensor of a checkpoint with this config.json is no parameter."""
        known = (*self.ignored_tensors, *self.extra_tensors(values))
        return any(ignored.covers(tensor) for ignored in known)

    def config(self, name: str, values: Mapping[str, Any]) -> DecoderConfig:
        """Return the decoder config of a config.json of this family, called `name` in errors."""
        raw = RawConfig(values, self.ignored_keys)
        try:
            config = self.read_config(raw)
        except ShapeError:
            raw.finish(name)  # a wrong key is the better explanation of an impossible size
            raise
        raw.finish(name)
        return config


@cache
def discover() -> dict[str, Family]:
    """Return every family by its file name in `danlu/models/families`."""
    package = importlib.import_module("danlu.models.families")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return {name: importlib.import_module(f"{package.__name__}.{name}").FAMILY for name in names}


def family_name(spelling: str) -> str | None:
    """Return the family that a user's spelling (a name or an alias, "Baichuan2-13B") means."""
    wanted = re.sub("[-. ]", "_", spelling.lower())
    for name, family in discover().items():
        if wanted == name or wanted in family.aliases:
            return name
    return None


def detect_family(values: Mapping[str, Any]) -> str:
    """Return the name of the family that a config.json belongs to.

    Raises:
        UnsupportedModelError: if no family, or more than one, claims it.
    """
    families = discover()
    claims = [name for name, family in families.items() if family.matches(values)]
    if len(claims) == 1:
        return claims[0]
    described = (
        f"architectures {values.get('architectures')!r}, model_type {values.get('model_type')!r}"
    )
    if claims:
        raise UnsupportedModelError(
            f"config.json ({described}) fits several families: {', '.join(claims)}. "
            "Name the right one with family=..."
        )
    raise UnsupportedModelError(
        f"No family opens this checkpoint: config.json says {described}. "
        f"Known families: {', '.join(families)} (see `danlu models`). "
        "If it is one of these under another name, say which with family=..."
    )

"""The families, and what works with each: every entry is asked of the code, none is written here.

A family answers with its `tiny` model, built without memory: which of its layers take adapters,
what it becomes elsewhere, which published tensors become which of ours.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from typing import Any

import torch

from danlu.errors import ConfigError, ExportError, did_you_mean
from danlu.export.gguf.architecture import architectures
from danlu.export.gguf.choosing import choose
from danlu.export.reexpressing import reexpress
from danlu.loading import decoder_from_config
from danlu.loading.layout import published_layout
from danlu.models import discover
from danlu.models.decoder import Decoder
from danlu.models.family import COMMON_KEYS, Family, RawConfig, family_name
from danlu.nn.linear import Linear
from danlu.weights.rules import Entry

YES, NO = "yes", "-"
_REQUIRED = inspect.signature(RawConfig.take).parameters["default"].default
HEADER = (
    "family",
    "train",
    "LoRA",
    "prefix",
    "quantize",
    "generate",
    "serve",
    "export",
    "gguf",
)


@dataclass(frozen=True)
class FamilyRow:
    """What works with one family; "-" where something does not.

    Attributes:
        name, summary: of the family.
        train: whole models, from scratch or fine-tuned.
        lora: the linear layers that take LoRA.
        prefix: prefix tuning.
        quantize: whether every preset fits its layers.
        generate: answers through the cache.
        serve: over HTTP.
        transformers: the architecture that `danlu export` makes of it.
        gguf: the graph of llama.cpp that computes it.
        why_not: for each export that is not there, the reason.
    """

    name: str
    summary: str
    train: str
    lora: tuple[str, ...]
    prefix: str
    quantize: str
    generate: str
    serve: str
    transformers: str
    gguf: str
    why_not: Mapping[str, str]

    def cells(self) -> tuple[str, ...]:
        """Return the entries under `HEADER`."""
        return (
            self.name,
            self.train,
            YES if self.lora else NO,
            self.prefix,
            self.quantize,
            self.generate,
            self.serve,
            self.transformers,
            self.gguf,
        )


@dataclass(frozen=True)
class TensorRow:
    """A published tensor and what it becomes; `{i}` counts layers, `{e}` experts.

    Attributes:
        published, ours: names.
        how: how several of ours lie in it; empty where it is one.
    """

    published: str
    ours: tuple[str, ...]
    how: str

    def ours_text(self) -> str:
        """Return our names in one: layers.{i}.self_attn.[q_proj, k_proj, v_proj].weight."""
        if len(self.ours) == 1:
            name = "the same" if self.ours[0] == self.published else self.ours[0]
            return f"{name}  {self.how}".rstrip()
        split = [name.split(".") for name in self.ours]
        first = _common(split)
        last = _common([parts[:first:-1] for parts in split])
        inner = [".".join(parts[first : len(parts) - last]) for parts in split]
        joined = [*split[0][:first], f"[{', '.join(inner)}]", *split[0][len(split[0]) - last :]]
        return f"{'.'.join(joined)}  {self.how}"


def _common(split: Sequence[Sequence[str]]) -> int:
    """Return how many parts all names begin with."""
    same = [len(set(parts)) == 1 for parts in zip(*split, strict=False)]
    return same.index(False) if False in same else len(same)


@dataclass(frozen=True)
class FamilyDetails:
    """Everything about one family.

    Attributes:
        row: what works.
        aliases: other names.
        detected: how a config.json is recognised.
        chat_format: the format of checkpoints without a template; None: they bring their own.
        keys_read: config keys by what they default to; "required" where they must be there.
        keys_ignored: config keys that change nothing, with the reason.
        keys_always_ignored: those that change nothing in any family.
        tensors_ignored: endings of tensors that are no parameters, with the reason.
        optional_prefix: of tensor names.
        tensors: from published names to ours.
    """

    row: FamilyRow
    aliases: tuple[str, ...]
    detected: str
    chat_format: str | None
    keys_read: Mapping[str, str]
    keys_ignored: Mapping[str, str]
    keys_always_ignored: Mapping[str, str]
    tensors_ignored: Mapping[str, str]
    optional_prefix: str
    tensors: tuple[TensorRow, ...]

    def rows(self) -> list[tuple[str, str]]:
        """Return labels and values to print, without the tables of keys and tensors."""
        row = self.row
        rows = [
            ("family", f"{row.name}: {row.summary}"),
            ("also called", ", ".join(self.aliases) or NO),
            ("is one if", self.detected),
            ("chat format", self.chat_format or "the checkpoint's own template"),
        ]
        rows += list(zip(HEADER[1:], row.cells()[1:], strict=True))
        rows.append(("LoRA on", ", ".join(row.lora)))
        rows += [(f"no {target}", reason) for target, reason in row.why_not.items()]
        if self.optional_prefix:
            rows.append(("names", f"with or without {self.optional_prefix!r} in front"))
        return rows

    def as_dict(self) -> dict[str, Any]:
        """Return everything as plain JSON values."""
        return asdict(self)


def list_families() -> list[FamilyRow]:
    """Return what works with each family, in the order of their names."""
    return [_row(name, family) for name, family in discover().items()]


def describe_family(spelling: str) -> FamilyDetails:
    """Return everything about one family.

    Args:
        spelling: its name, or another one it is known by.

    Raises:
        ConfigError: if there is no such family.
    """
    name = family_name(spelling)
    families = discover()
    if name is None:
        known = [*families, *(alias for family in families.values() for alias in family.aliases)]
        raise ConfigError(
            f"There is no family {spelling!r}.{did_you_mean(spelling.lower(), known)} "
            f"Known: {', '.join(families)}."
        )
    family = families[name]
    return FamilyDetails(
        row=_row(name, family),
        aliases=family.aliases,
        detected=_detected(family),
        chat_format=family.chat_format(family.tiny()),
        keys_read=_keys_read(family),
        keys_ignored=family.ignored_keys,
        keys_always_ignored=COMMON_KEYS,
        tensors_ignored={ignored.ending: ignored.reason for ignored in family.ignored_tensors},
        optional_prefix=family.optional_prefix,
        tensors=tuple(_tensors(decoder_from_config(family.tiny(), name))),
    )


def _row(name: str, family: Family) -> FamilyRow:
    decoder = decoder_from_config(family.tiny(), name)
    transformers, no_transformers = _as_transformers(decoder, name)
    gguf, no_gguf = _as_gguf(decoder, name)
    reasons = {"export": no_transformers, "gguf": no_gguf}
    return FamilyRow(
        name=name,
        summary=family.summary,
        train=_there("danlu.train"),
        lora=_adaptable(decoder),
        prefix=_there("danlu.adapters.methods.prefix"),
        quantize=_quantizable(decoder),
        generate=_there("danlu.engine"),
        serve=_there("danlu.server"),
        transformers=transformers,
        gguf=gguf,
        why_not={target: reason for target, reason in reasons.items() if reason},
    )


def _there(module: str) -> str:
    """Return whether this version has the part that works with any decoder."""
    return YES if find_spec(module) else NO


def _adaptable(decoder: Decoder) -> tuple[str, ...]:
    """Return the kinds of linear layers that take LoRA; the head is not adapted."""
    kinds = [name.rpartition(".")[2] for name, _ in decoder.linears() if name != "lm_head"]
    return tuple(dict.fromkeys(kinds))


def _quantizable(decoder: Decoder) -> str:
    """Return whether every linear layer is one that quantized ones can replace."""
    plain = all(isinstance(linear, Linear) for _, linear in decoder.linears())
    return YES if plain else NO


def _as_transformers(decoder: Decoder, name: str) -> tuple[str, str]:
    try:
        reexpressed = reexpress("transformers", decoder)
    except ExportError as error:
        return NO, discover()[name].not_exported or str(error)
    return ("itself" if reexpressed.family == name else reexpressed.family), ""


def _as_gguf(decoder: Decoder, name: str) -> tuple[str, str]:
    """Ask at the depths that a graph of the family insists on, then at that of the test size."""
    graphs = architectures().values()
    depths = [depth for graph in graphs if name in graph.families for depth in graph.depths]
    reason = ""
    for depth in (*depths, decoder.config.num_layers):
        try:
            return choose(_with_layers(decoder, depth)).name, ""
        except ExportError as error:
            reason = str(error)
    return NO, reason


def _with_layers(decoder: Decoder, num_layers: int) -> Decoder:
    """Return the same model with so many layers, without memory."""
    with torch.device("meta"):
        other = Decoder(replace(decoder.config, num_layers=num_layers))
    other.published = decoder.published
    return other


def _detected(family: Family) -> str:
    """Return what the family's own rule says about itself."""
    text = " ".join((family.matches.__doc__ or "").split())
    return text.removeprefix("Return whether ").removesuffix(".")


class _Recorder(RawConfig):
    """A config.json that notes which keys are asked for."""

    def __init__(self, family: Family) -> None:
        super().__init__(family.tiny(), family.ignored_keys)
        self.asked: dict[str, str] = {}

    def take(self, *names: str, **options: Any) -> Any:
        """Note the key and what it defaults to."""
        default = options.get("default", _REQUIRED)
        told = "required" if default is _REQUIRED else f"default {default!r}"
        self.asked.setdefault(" or ".join(names), told)
        return super().take(*names, **options)

    def expect(self, name: str, *allowed: object) -> None:
        """Note the key and the values it may have."""
        values = " or ".join(map(repr, allowed)) or "null"
        self.asked.setdefault(name, f"may be absent; else {values}")
        super().expect(name, *allowed)


def _keys_read(family: Family) -> dict[str, str]:
    recorder = _Recorder(family)
    family.read_config(recorder)
    return dict(sorted(recorder.asked.items()))


def _tensors(decoder: Decoder) -> list[TensorRow]:
    """Return the published tensors, those of layers and experts once."""
    rows: dict[str, TensorRow] = {}
    for entry in published_layout(decoder).entries.values():
        row = TensorRow(_pattern(entry.published), tuple(map(_pattern, entry.ours)), _how(entry))
        rows.setdefault(row.published, row)
    return list(rows.values())


def _pattern(name: str) -> str:
    """Return a tensor name with its numbers as `{i}` (the layer) and `{e}` (the expert)."""
    layered = re.sub(r"(?<=\.)\d+(?=\.)", "{i}", name, count=1)
    return re.sub(r"(?<=\.)\d+(?=\.)", "{e}", layered)


def _how(entry: Entry) -> str:
    """Return how the arrangement lays the parts out; nothing for a plain copy."""
    kind = type(entry.arrangement).__name__
    return "" if len(entry.ours) == 1 and kind == "Stacked" else kind

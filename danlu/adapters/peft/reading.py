"""Published tensors of an adapter become wrappers and replacements of our layers."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from danlu.adapters.attached import Adaptable
from danlu.adapters.method import AdapterSource
from danlu.adapters.peft.tensors import Parts
from danlu.adapters.targets import EMBEDDING, HEAD
from danlu.adapters.whole import in_place_of
from danlu.adapters.wrapping import Replacement, Wrapped, plain_parameter
from danlu.errors import AdapterError, bullet_list, did_you_mean
from danlu.weights.rules import Entry


@dataclass
class Reading:
    """An adapter's folder on its way onto a model: what was made of it, and what does not fit.

    Attributes:
        model: what it is read for; left as it is.
        entries: its published tensors.
        source: the folder.
        wrappers: made so far.
        replacements: made so far.
        problems: found so far.
    """

    model: Adaptable
    entries: Mapping[str, Entry]
    source: AdapterSource
    wrappers: list[tuple[str, Wrapped]] = field(default_factory=list)
    replacements: list[Replacement] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def entry(self, name: str) -> Entry | None:
        """Return the published tensor `name`; one that is not there is a problem."""
        found = self.entries.get(name) or self._under_a_prefix(name)
        if found is None:
            known = [n.removesuffix(".weight") for n in self.entries]
            module = name.removesuffix(".weight")
            self.problems.append(f"{module} is no layer of the base.{did_you_mean(module, known)}")
        return found

    def _under_a_prefix(self, name: str) -> Entry | None:
        """Return the only tensor whose name goes on with `name`: files without a model's prefix."""
        found = [entry for known, entry in self.entries.items() if known.endswith(f".{name}")]
        return found[0] if len(found) == 1 else None

    def unknown(self, parts: Parts, *kinds: str) -> None:
        """Note tensors of kinds that this type of adapter does not have."""
        self.problems += [
            f"{name} has {kind}, which is no part of this type of adapter"
            for name, tensors in parts.with_kinds(*kinds).items()
            for kind in tensors
        ]

    def finish(self) -> None:
        """Raise everything that does not fit.

        Raises:
            AdapterError: if there is a problem.
        """
        if not self.problems and not self.wrappers and not self.replacements:
            self.problems.append("it holds no tensors")
        if self.problems:
            raise AdapterError(
                f"The adapter in '{self.source.folder}' does not fit this base:"
                f"{bullet_list(self.problems)}\nIt was made for "
                f"{self.source.config.get('base_model_name_or_path')!r}; load it on that base."
            )


def split_rows(entry: Entry, tensor: Tensor) -> list[Tensor]:
    """Return what of a tensor with one row per published output belongs to each of our layers."""
    if len(entry.ours) == 1:
        return [tensor]
    parts = entry.arrangement.rows.split(tensor, entry.shapes)
    return [part.contiguous() for part in parts]


def owners(entry: Entry) -> list[str]:
    """Return our layers that a published weight stands for."""
    return [ours.rpartition(".")[0] for ours in entry.ours]


def sizes(entry: Entry) -> tuple[int, int]:
    """Return outputs and inputs of the published layer of a weight."""
    outputs, inputs = entry.arrangement.rows.fused_shape(entry.shapes)
    return outputs, inputs


def on_base(tensor: Tensor, base: nn.Module) -> Tensor:
    """Return a tensor in float32, a copy of its own, where `base` is."""
    at = next((t.device for t in [*base.parameters(), *base.buffers()]), torch.device("cpu"))
    return tensor.detach().to(at, torch.float32, copy=True).contiguous()


def from_pattern(name: str, patterns: Mapping[str, Any] | None, default: Any) -> Any:
    """Return the value of the first pattern that the end of `name` matches (peft's rule)."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", name):
            return value
    return default


def read_replacements(reading: Reading, parts: Parts) -> None:
    """Read modules trained whole and trained biases."""
    for name, tensor in parts.replaced.items():
        _replace(reading, name, tensor)
    for name, tensor in parts.base.items():
        if name.endswith(".bias") or _differs_from_base(reading, name, tensor):
            _replace(reading, name, tensor)
    if reading.source.config.get("ensure_weight_tying"):
        _tie(reading)


def _replace(reading: Reading, name: str, tensor: Tensor) -> None:
    entry = reading.entry(name)
    if entry is None:
        return
    if tensor.shape != entry.shape:
        reading.problems.append(
            f"{name} is {list(tensor.shape)}; the base has {list(entry.shape)}."
            + _vocabulary_hint(entry, tensor)
        )
        return
    for ours, part in entry.load(tensor).items():
        if any(ours == known.name for known in reading.replacements):
            continue
        trained = in_place_of(reading.model, ours, part)
        if trained is None:
            reading.problems.append(f"{name} was trained whole; the base has no {ours}")
        elif isinstance(trained, Replacement):
            reading.replacements.append(trained)
        else:
            reading.wrappers.append(trained)


def _vocabulary_hint(entry: Entry, tensor: Tensor) -> str:
    grown = entry.ours[0] in (f"{EMBEDDING}.weight", f"{HEAD}.weight") and (
        tensor.ndim == 2 and tensor.shape[1] == entry.shape[1]
    )
    return " Its vocabulary was extended; extend the base's to as many rows first" if grown else ""


def _differs_from_base(reading: Reading, name: str, tensor: Tensor) -> bool:
    """Return whether a base layer that PEFT kept in the file is not that of this base."""
    entry = reading.entries.get(name) or reading.entry(name)
    if entry is None:
        return False
    state = {ours: plain_parameter(reading.model, ours) for ours in entry.ours}
    known = {ours: p.detach() for ours, p in state.items() if p is not None}
    if len(known) < len(state) or tensor.shape != entry.shape:
        return tensor.shape != entry.shape
    held = entry.save(known)
    return not torch.equal(tensor.to(held), held)


def missing_targets(reading: Reading, parts: Parts) -> list[str]:
    """Return the targets in the config that the base has and the file has nothing of."""
    words = reading.source.config.get("target_modules")
    if not isinstance(words, list) or reading.source.config.get("target_parameters"):
        return []
    left_out = reading.source.config.get("exclude_modules") or []
    modules = [name.rpartition(".")[0] for name in reading.entries]
    bases = [module for module in modules if not _is_left_out(module, left_out)]
    held = [*parts.modules, *(name.rpartition(".")[0] for name in parts.replaced)]
    return [
        f"target_modules: {word!r} has no tensors in the file. Copy the adapter again, whole"
        for word in words
        if _any_ends(bases, word) and not _any_ends(held, word)
    ]


def _is_left_out(module: str, left_out: str | list[str]) -> bool:
    if isinstance(left_out, str):
        return re.fullmatch(left_out, module) is not None
    return any(f".{module}".endswith(f".{word}") for word in left_out)


def _any_ends(names: Iterable[str], word: str) -> bool:
    return any(f".{name}".endswith(f".{word}") for name in names)


def _tie(reading: Reading) -> None:
    """Let a head that is tied follow the embedding that was trained whole."""
    weights = [f"{EMBEDDING}.weight", f"{HEAD}.weight"]
    embedding, head = (plain_parameter(reading.model, name) for name in weights)
    trained = {known.name: known.trained for known in reading.replacements}
    if embedding is head and weights[0] in trained and weights[1] not in trained:
        reading.replacements.append(Replacement(weights[1], trained[weights[0]]))

"""The run file that is being made, and what became of every old flag."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from danlu.config.yaml_text import scalar_text

_REMARK_COLUMN = 44
_ORDER = (
    *("out", "seed", "model", "family", "quantize", "warm_start", "data", "adapter", "train"),
    *("scheme", "skip", "kv_cache", "calibration", "report"),
)


@dataclass
class Draft:
    """A run file in the making.

    Attributes:
        values: the run file, nested.
        origins: dotted key -> the old flags it comes from.
        needless: old flag -> why nothing is needed for it.
        missing: old flag -> what the new run does not do, and what to do instead.
    """

    values: dict[str, Any] = field(default_factory=dict)
    origins: dict[str, str] = field(default_factory=dict)
    needless: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def set(self, key: str, value: Any, origin: str) -> None:
        """Set a dotted key."""
        *parents, last = key.split(".")
        place = self.values
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
        self.origins[key] = origin

    def set_default(self, key: str, value: Any, origin: str) -> None:
        """Set a dotted key that no flag has set."""
        if key not in self.origins:
            self.set(key, value, origin)

    def text(self) -> str:
        """Return the run file as YAML, each value with the old flag it comes from."""
        ordered = {key: self.values[key] for key in _ORDER if key in self.values}
        return "\n".join(self._lines(ordered | self.values, "", "")) + "\n"

    def _lines(self, values: Mapping[str, Any], prefix: str, indent: str) -> Iterator[str]:
        for key, value in values.items():
            dotted = f"{prefix}{key}"
            if isinstance(value, dict) and value:
                yield f"{indent}{key}:"
                yield from self._lines(value, f"{dotted}.", indent + "  ")
            else:
                line = f"{indent}{key}: {scalar_text(value)}"
                origin = self.origins.get(dotted, "")
                yield f"{line:<{_REMARK_COLUMN}}  # {origin}" if origin else line


Rule = Callable[[Draft, str, Any], None]  # (draft, old flag, its value)
Rules = Mapping[str, Rule]


def becomes(key: str, convert: Callable[[Any], Any] = lambda value: value) -> Rule:
    """Return the rule of a flag that has one new key."""

    def apply(draft: Draft, flag: str, value: Any) -> None:
        draft.set(key, convert(value), shown(flag, value))

    return apply


def needs_nothing(reason: str) -> Rule:
    """Return the rule of a flag for which there is nothing to do."""

    def apply(draft: Draft, flag: str, value: Any) -> None:
        draft.needless[shown(flag, value)] = reason

    return apply


def has_no_counterpart(reason: str) -> Rule:
    """Return the rule of a flag whose effect the new run lacks; a flag that is off is needless."""

    def apply(draft: Draft, flag: str, value: Any) -> None:
        if is_off(value):
            draft.needless[shown(flag, value)] = "it was off"
        else:
            draft.missing[shown(flag, value)] = reason

    return apply


def is_off(value: Any) -> bool:
    """Return whether a flag's value means that it does nothing."""
    return value in (None, False, 0, -1, "", "no", "none", "None", "False", "false")


def shown(flag: str, value: Any) -> str:
    """Return a flag as it was typed."""
    return f"--{flag}" if value is True else f"--{flag} {value}"

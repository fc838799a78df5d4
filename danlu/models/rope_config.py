"""Rotary embeddings as config.json spells them, for all families that follow Llama's keys."""

from collections.abc import Callable, Mapping
from typing import Any

from danlu.models.family import RawConfig
from danlu.nn.positions import Rope
from danlu.nn.rope_scaling import (
    LinearScaling,
    Llama3Scaling,
    RopeScaling,
    YarnScaling,
    yarn_magnitude,
)

Parameters = Mapping[str, Any]


def read_rope(
    raw: RawConfig,
    head_dim: int,
    *,
    interleaved: bool = False,
    theta: float = 10000.0,
    partial: float = 1.0,
) -> Rope:
    """Read both spellings: `rope_theta` + `rope_scaling`, and `rope_parameters` of 2026.

    Args:
        raw: the config.json.
        head_dim: size of a head.
        interleaved: the family pairs neighbouring dims.
        theta: its default base.
        partial: its default share of each head that is rotated.
    """
    parameters = raw.take("rope_parameters", default={}, kind=dict)
    theta = raw.take("rope_theta", default=parameters.get("rope_theta", theta), kind=float)
    partial = raw.take(
        "partial_rotary_factor", default=parameters.get("partial_rotary_factor", partial)
    )
    scaling = raw.take("rope_scaling", default=parameters, kind=dict)
    return Rope(
        rotary_dim=int(head_dim * partial),
        theta=float(theta),
        interleaved=interleaved,
        scaling=read_scaling(raw, scaling),
    )


def read_scaling(raw: RawConfig, values: Parameters) -> RopeScaling:
    """Read a `rope_scaling` object; every key of it is used or a problem."""
    kind = str(values.get("rope_type", values.get("type", "default")))
    if kind not in _READERS:
        known = ", ".join(map(repr, _READERS))
        raw.problem(f"rope scaling {kind!r} is not supported; expected one of {known}")
        return RopeScaling()
    found = _Values(raw, values)
    scaling = _READERS[kind](found, raw)
    found.finish()
    return scaling


class _Values:
    """The keys of a scaling object, each taken once."""

    def __init__(self, raw: RawConfig, values: Parameters) -> None:
        self._raw = raw
        self._values = dict(values)
        for name in ("rope_type", "type", "rope_theta", "partial_rotary_factor"):
            self._values.pop(name, None)

    def number(self, name: str, default: float | None = None) -> float:
        """Take a positive number."""
        value = self._values.pop(name, default)
        if type(value) in (int, float) and value > 0:
            return float(value)
        self._raw.problem(f"rope scaling key {name!r} is {value!r}; expected a positive number")
        return 1.0

    def optional(self, name: str) -> float | None:
        """Take a positive number that may be absent or null."""
        if self._values.get(name) is None:
            self._values.pop(name, None)
            return None
        return self.number(name)

    def finish(self) -> None:
        """Report what was not taken."""
        for name in sorted(self._values):
            self._raw.problem(f"unknown key {name!r} in rope scaling")


def _default(values: _Values, raw: RawConfig) -> RopeScaling:
    return RopeScaling()


def _linear(values: _Values, raw: RawConfig) -> RopeScaling:
    return LinearScaling(values.number("factor"))


def _llama3(values: _Values, raw: RawConfig) -> RopeScaling:
    return Llama3Scaling(
        factor=values.number("factor"),
        low_freq_factor=values.number("low_freq_factor"),
        high_freq_factor=values.number("high_freq_factor"),
        original_max_seq_len=int(values.number("original_max_position_embeddings")),
    )


def _yarn(values: _Values, raw: RawConfig) -> RopeScaling:
    trained = raw.take("max_position_embeddings", default=None)
    factor = values.number("factor")
    return YarnScaling(
        factor=factor,
        original_max_seq_len=int(values.number("original_max_position_embeddings", trained)),
        beta_fast=values.number("beta_fast", 32.0),
        beta_slow=values.number("beta_slow", 1.0),
        attention_factor=_attention_factor(values, factor),
    )


def _attention_factor(values: _Values, factor: float) -> float | None:
    """Return the magnitude that the config asks for (DeepSeek: a ratio); None: the paper's."""
    given = values.optional("attention_factor")
    above, below = values.optional("mscale"), values.optional("mscale_all_dim")
    if given is None and above is not None and below is not None:
        return yarn_magnitude(factor, above) / yarn_magnitude(factor, below)
    return given


_READERS: dict[str, Callable[[_Values, RawConfig], RopeScaling]] = {
    "default": _default,
    "linear": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
}

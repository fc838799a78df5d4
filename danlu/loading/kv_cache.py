"""How the keys and values of a checkpoint are rounded: by its tensors, or by its danlu.json."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from danlu.config.quantize.kv_cache import KvCacheNote, KvCacheScheme
from danlu.errors import CheckpointError
from danlu.loading.building import family_named
from danlu.loading.layout import published_layout, stored_name
from danlu.models.decoder import Decoder
from danlu.nn.cache_rounding import CacheRounding, FixedRounding, TokenRounding
from danlu.quantize.layouts.compressed_cache import (
    KEYS,
    METHOD,
    VALUES,
    cache_scheme,
    reads_cache,
    stored_scales,
)
from danlu.tokenizer.stamp import STAMP, add_to_stamp, read_stamp

NOTE = "kv_cache"  # key of danlu.json


class CacheScales:
    """The scales of keys and values among the tensors of a checkpoint, as they arrive.

    Args:
        decoder: of the checkpoint, on any device.
        config: its `quantization_config`, or None.
    """

    def __init__(self, decoder: Decoder, config: Mapping[str, Any] | None) -> None:
        assert decoder.published is not None
        self._prefix = family_named(decoder.published.family).optional_prefix
        self._shapes = decoder.kv_shapes()
        read = config is not None and reads_cache(config)
        self._layers = attention_modules(decoder) if read else {}
        self._arrived: dict[tuple[str, int], Tensor] = {}
        self.problems: list[str] = []

    def take(self, name: str, tensor: Tensor) -> bool:
        """Keep a tensor if it is a scale; return whether it is."""
        module, _, leaf = name.rpartition(".")
        layer = self._layers.get(module, self._layers.get(f"{self._prefix}{module}"))
        if layer is None or leaf not in (KEYS, VALUES):
            return False
        heads = self._shapes[layer].num_kv_heads
        scales = tensor.reshape(-1).clone()
        if len(scales) not in (1, heads):
            self.problems.append(f"{name} has {len(scales)} scales; expected 1 or {heads}.")
        elif not bool((scales > 0).all() and scales.isfinite().all()):
            self.problems.append(f"{name} holds {scales.tolist()}; expected positive numbers.")
        self._arrived[leaf, layer] = scales
        return True

    def rounding(self) -> FixedRounding | None:
        """Return how keys and values are rounded; None: not at all. Missing scales are problems."""
        if not self._layers:
            return None
        modules = {layer: module for module, layer in self._layers.items()}
        wanted = [(leaf, layer) for layer in sorted(modules) for leaf in (KEYS, VALUES)]
        missing = [key for key in wanted if key not in self._arrived]
        self.problems += [f"{modules[layer]}.{leaf} is missing." for leaf, layer in missing]
        if missing:
            return None
        keys, values = (
            [self._arrived[leaf, i] for i in sorted(modules)] for leaf in (KEYS, VALUES)
        )
        return FixedRounding(keys, values)


def attention_modules(decoder: Decoder) -> dict[str, int]:
    """Return the published name of each attention module, with the number of its layer."""
    found = {}
    for name, entry in published_layout(decoder).entries.items():
        parts = entry.ours[0].split(".")
        if parts[:2] == ["model", "layers"] and parts[3] == "self_attn" and len(parts) == 6:
            found[name.rpartition(".")[0].rpartition(".")[0]] = int(parts[2])
    return found


@dataclass(frozen=True)
class WrittenCache:
    """Where a folder says how keys and values are rounded.

    Attributes:
        scheme: `kv_cache_scheme` of its `quantization_config`, or None.
        tensors: its scales by their stored names.
        note: what danlu.json says instead, or None.
    """

    scheme: Mapping[str, Any] | None
    tensors: Mapping[str, Tensor]
    note: CacheRounding | None


def written_cache(decoder: Decoder, config: Mapping[str, Any] | None) -> WrittenCache:
    """Return where a decoder's folder says how keys and values are rounded.

    Args:
        decoder: with its published form.
        config: the `quantization_config` that is written, or None.
    """
    rounding = decoder.kv_cache
    holds = config is not None and config.get("quant_method") == METHOD
    if not holds or not isinstance(rounding, FixedRounding):
        return WrittenCache(None, {}, rounding)
    return WrittenCache(_scheme(decoder, rounding), _scale_tensors(decoder, rounding), None)


def _scheme(decoder: Decoder, rounding: FixedRounding) -> Mapping[str, Any]:
    """Return the scheme as it was read, where it still tells the truth."""
    assert decoder.published is not None
    scheme, read = cache_scheme(rounding), decoder.published.quantization or {}
    before = read.get("kv_cache_scheme") if reads_cache(read) else None
    return before if before and before["strategy"] == scheme["strategy"] else scheme


def _scale_tensors(decoder: Decoder, rounding: FixedRounding) -> dict[str, Tensor]:
    published = decoder.published
    assert published is not None
    return {
        f"{stored_name(module, published)}.{leaf}": scales
        for module, layer in attention_modules(decoder).items()
        for leaf, scales in stored_scales(rounding, layer).items()
    }


def noted_rounding(folder: Path, decoder: Decoder) -> CacheRounding | None:
    """Return how danlu.json says that keys and values are rounded, or None.

    Raises:
        CheckpointError: if what it says does not fit the model.
    """
    said = read_stamp(folder).get(NOTE)
    if said is None:
        return None
    try:
        note = KvCacheNote.model_validate(said)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or NOTE
        raise _misfit(folder, f"{where}: {first['msg']}") from None
    if note.scheme.scales == "token":
        return TokenRounding()
    shapes = decoder.kv_shapes()
    for scales in (note.keys, note.values):
        fits = [len(own) in (1, s.num_kv_heads) for own, s in zip(scales, shapes, strict=False)]
        if len(scales) != len(shapes) or not all(fits):
            told = f"fixed scales of {len(scales)} layers; the model has {len(shapes)}"
            raise _misfit(folder, f"{told}, each with {shapes[0].num_kv_heads} heads")
    return FixedRounding(_tensors(note.keys), _tensors(note.values))


def _tensors(scales: list[list[float]]) -> list[Tensor]:
    return [torch.tensor(own) for own in scales]


def _misfit(folder: Path, reason: str) -> CheckpointError:
    return CheckpointError(
        f"'{folder / STAMP}' says of {NOTE!r} what cannot be used ({reason}). Expected what was "
        "written with the weights; copy it again, or remove that key to keep keys and values plain."
    )


def note_rounding(folder: Path, rounding: CacheRounding | None) -> None:
    """Note in danlu.json how keys and values are rounded; None: nothing is, or the tensors tell."""
    if rounding is not None or NOTE in read_stamp(folder):
        add_to_stamp(folder, **{NOTE: None if rounding is None else _note(rounding)})


def _note(rounding: CacheRounding) -> dict[str, Any]:
    if isinstance(rounding, FixedRounding):
        note = KvCacheNote(
            scheme=KvCacheScheme(scales="head" if rounding.per_head else "tensor"),
            keys=[scales.tolist() for scales in rounding.keys],
            values=[scales.tolist() for scales in rounding.values],
        )
    else:
        note = KvCacheNote(scheme=KvCacheScheme())
    return note.model_dump(mode="json")

"""(IA)3 (arXiv:2205.05638, sec. 3.3): factors on what linear layers give or take."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from danlu.adapters.attached import Adaptable
from danlu.adapters.method import AdapterContent, AdapterSource
from danlu.adapters.peft.config import key_problems
from danlu.adapters.peft.reading import (
    Reading,
    on_base,
    owners,
    read_replacements,
    sizes,
    split_rows,
)
from danlu.adapters.peft.tensors import KEY_PREFIX, Parts, read_parts
from danlu.adapters.peft.writing import published_replacements
from danlu.adapters.scaling import ScaledInputs, ScaledOutputs, ones
from danlu.adapters.targets import EMBEDDING, choose_targets, named_layers
from danlu.adapters.wrapping import Wrapped, Wrapping
from danlu.config.adapter import Ia3Config
from danlu.errors import AdapterError
from danlu.nn.linear import LinearLike
from danlu.weights.rules import Entry, Transposed


class Ia3:
    """Makes, reads and writes factors."""

    name = "ia3"
    config = Ia3Config
    peft_types = ("IA3",)

    def attach(
        self,
        model: Adaptable,
        config: Ia3Config,
        generator: torch.Generator,
        entries: Mapping[str, Entry],
    ) -> Wrapping:
        """Return factors that are all one."""
        layers = {layer.ours: layer for layer in named_layers(model, entries)}
        linears = dict(model.linears())
        wrappers: list[tuple[str, Wrapped]] = []
        for group in choose_targets(model, config, entries):
            if group == (EMBEDDING,):
                raise AdapterError(
                    "ia3 scales linear layers, and embed_tokens is none. Leave it out of targets."
                )
            bases = [linears[name] for name in group]
            inputs = any(layers[group[0]].means(word) for word in config.feedforward)
            wrappers += zip(group, _fresh(bases, inputs=inputs), strict=True)
        return Wrapping(self.name, config, wrappers)

    def read(
        self, model: Adaptable, source: AdapterSource, entries: Mapping[str, Entry]
    ) -> Wrapping:
        """Return the factors in a folder."""
        reading = Reading(model, entries, source, problems=key_problems(source.config, ()))
        parts = read_parts(source.weights)
        reading.unknown(parts, "lora_A", "lora_B", "embedding_A", "embedding_B", "rows")
        _read_factors(reading, parts)
        read_replacements(reading, parts)
        reading.finish()
        return Wrapping(self.name, Ia3Config(), reading.wrappers, reading.replacements)

    @torch.no_grad()
    def write(
        self, model: Adaptable, attached: Wrapping, entries: Mapping[str, Entry]
    ) -> AdapterContent:
        """Return what a folder with the factors holds."""
        outputs = _published_outputs(attached.of_kind(ScaledOutputs), entries)
        inputs = _published_inputs(attached.of_kind(ScaledInputs), entries)
        replaced = published_replacements(model, attached, entries)
        modules = list(dict.fromkeys(name.rpartition(".")[0] for name in replaced))
        turned = [entries[f"{name}.weight"].arrangement for name in (*outputs, *inputs)]
        config = {
            "peft_type": "IA3",
            "task_type": "CAUSAL_LM",
            "target_modules": [*outputs, *inputs],
            "feedforward_modules": list(inputs),
            "fan_in_fan_out": any(isinstance(each, Transposed) for each in turned),
            "modules_to_save": modules or None,
            "init_ia3_weights": True,
            "inference_mode": True,
            "revision": None,
        }
        factors = {f"{name}.ia3_l": tensor for name, tensor in {**outputs, **inputs}.items()}
        found = {**factors, **replaced}
        return AdapterContent(config, {f"{KEY_PREFIX}{key}": t for key, t in found.items()})


METHOD = Ia3()


def _fresh(bases: list[LinearLike], *, inputs: bool) -> list[Any]:
    if not inputs:
        return [ScaledOutputs(base, ones(base.out_features, base)) for base in bases]
    shared = nn.Parameter(ones(bases[0].in_features, bases[0]))
    return [ScaledInputs(base, shared) for base in bases]


def _read_factors(reading: Reading, parts: Parts) -> None:
    linears = dict(reading.model.linears())
    for name, tensors in parts.with_kinds("factors").items():
        entry = reading.entry(f"{name}.weight")
        if entry is None:
            continue
        shape, (outputs, inputs) = tuple(tensors["factors"].shape), sizes(entry)
        if not all(owner in linears for owner in owners(entry)):
            reading.problems.append(f"{name} is no linear layer")
        elif shape == (outputs, 1):
            reading.wrappers += _scaled_outputs(entry, tensors["factors"], linears)
        elif shape == (1, inputs):
            shared = nn.Parameter(on_base(tensors["factors"][0], linears[owners(entry)[0]]))
            reading.wrappers += [(o, ScaledInputs(linears[o], shared)) for o in owners(entry)]
        else:
            reading.problems.append(
                f"{name} has factors {list(shape)}; the base takes [{outputs}, 1] or [1, {inputs}]"
            )


def _scaled_outputs(
    entry: Entry, factors: Tensor, linears: Mapping[str, LinearLike]
) -> list[tuple[str, Wrapped]]:
    names, parts = owners(entry), split_rows(entry, factors)
    return [
        (name, ScaledOutputs(linears[name], on_base(part.reshape(-1), linears[name])))
        for name, part in zip(names, parts, strict=True)
    ]


def _published_outputs(
    scaled: Mapping[str, ScaledOutputs], entries: Mapping[str, Entry]
) -> dict[str, Tensor]:
    """Return factors [out, 1] by published layer; parts of one without factors get ones."""
    found = {}
    for name, entry in entries.items():
        names = owners(entry)
        if not name.endswith(".weight") or not any(owner in scaled for owner in names):
            continue
        parts = [
            scaled[owner].factors[:, None] if owner in scaled else torch.ones(shape[0], 1)
            for owner, shape in zip(names, entry.shapes, strict=True)
        ]
        joined = parts[0] if len(parts) == 1 else entry.arrangement.rows.join(parts)
        found[name.removesuffix(".weight")] = joined.detach()
    return found


def _published_inputs(
    scaled: Mapping[str, ScaledInputs], entries: Mapping[str, Entry]
) -> dict[str, Tensor]:
    """Return factors [1, in] by published layer.

    Raises:
        AdapterError: if our layers of one published layer have different ones.
    """
    found = {}
    for name, entry in entries.items():
        layers = [scaled.get(owner) for owner in owners(entry)]
        known = [layer.factors for layer in layers if layer is not None]
        if not name.endswith(".weight") or not known:
            continue
        if len(known) < len(layers) or any(not torch.equal(f, known[0]) for f in known):
            raise AdapterError(
                f"{name} holds {', '.join(owners(entry))}, whose inputs are scaled differently; "
                "the published layer has one input. Name it by its published name in targets."
            )
        found[name.removesuffix(".weight")] = known[0].detach()[None]
    return found

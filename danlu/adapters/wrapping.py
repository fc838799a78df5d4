"""Adapters that stand around layers or in the place of parameters: put on, taken off, merged."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import nn

from danlu.adapters.attached import Adaptable, Attached
from danlu.adapters.targets import EMBEDDING
from danlu.adapters.wrappers import AdaptedEmbedding, AdaptedLinear
from danlu.config.base import Config
from danlu.nn.embedding import TokenEmbedding

Wrapped = AdaptedLinear | AdaptedEmbedding


@dataclass
class Replacement:
    """A parameter that is trained in the place of the base's: a bias, or part of a whole module.

    Attributes:
        name: of the parameter in the base.
        trained: what takes its place, in the dtype of the base.
        replaced: what it took the place of, while it is on.
    """

    name: str
    trained: nn.Parameter
    replaced: nn.Parameter | None = None

    def put_on(self, model: Adaptable) -> None:
        """Let the trained parameter act."""
        owner, leaf = self._place(model)
        self.replaced = getattr(owner, leaf)
        setattr(owner, leaf, self.trained)

    def take_off(self, model: Adaptable) -> None:
        """Put back what was replaced."""
        owner, leaf = self._place(model)
        setattr(owner, leaf, self.replaced)

    def _place(self, model: Adaptable) -> tuple[nn.Module, str]:
        slot, _, leaf = self.name.rpartition(".")
        return unwrapped(model.get_submodule(slot)), leaf


class Wrapping(Attached):
    """An adapter that consists of wrappers around layers and of parameters in others' places.

    Args:
        method: name of the method that made it.
        config: a config it could be made with.
        wrappers: by the name of the layer that each is put around; several around one in order.
        replacements: parameters trained beside them.
        scales: factors on the learning rate of some of the parameters.
    """

    def __init__(
        self,
        method: str,
        config: Config,
        wrappers: Iterable[tuple[str, Wrapped]],
        replacements: Iterable[Replacement] = (),
        scales: Mapping[nn.Parameter, float] | None = None,
    ) -> None:
        self.method = method
        self.config = config
        self.wrappers = list(wrappers)
        self.replacements = list(replacements)
        self.scales = scales or {}
        names = [name for name, _ in self.wrappers]
        self.names = list(dict.fromkeys([*names, *(r.name for r in self.replacements)]))

    def of_kind(self, kind: type[Any]) -> dict[str, Any]:
        """Return the wrappers of one class by the name of their layer."""
        return {name: wrapper for name, wrapper in self.wrappers if isinstance(wrapper, kind)}

    def put_on(self, model: Adaptable) -> None:
        """Put every wrapper around what stands in its place now."""
        for replacement in self.replacements:
            replacement.put_on(model)
        for name, wrapper in self.wrappers:
            wrapper.base = cast(Any, model.get_submodule(name))
            wrapper.train(wrapper.base.training)
            put_in_place(model, name, wrapper)

    def take_off(self, model: Adaptable) -> None:
        """Put back what the wrappers stood around."""
        for name, wrapper in reversed(self.wrappers):
            put_in_place(model, name, wrapper.base)
        for replacement in self.replacements:
            replacement.take_off(model)

    def parameters(self) -> list[nn.Parameter]:
        """Return what is trained, each once."""
        own = [p for _, wrapper in self.wrappers for p in wrapper.adapter_parameters()]
        return list(dict.fromkeys([*own, *(r.trained for r in self.replacements)]))

    def lr_scales(self) -> Mapping[nn.Parameter, float]:
        """Return factors on the learning rate, of the parameters that have one."""
        return self.scales

    def slots(self) -> list[str]:
        """Return the names of the layers that wrappers stand around."""
        return list(dict.fromkeys(name for name, _ in self.wrappers))

    @torch.no_grad()
    def merge(self, model: Adaptable) -> None:
        """Put plain layers with the summed weights where wrapped ones are."""
        merged = {}
        for name in self.slots():
            layer = model.get_submodule(name)
            if isinstance(layer, AdaptedLinear | AdaptedEmbedding):
                merged[name] = layer.merged()
        for name, layer in merged.items():
            put_in_place(model, name, layer)
        for replacement in self.replacements:
            replacement.trained.requires_grad_(False)


def put_in_place(model: Adaptable, name: str, module: nn.Module) -> None:
    """Put `module` where the layer called `name` is."""
    parent, _, last = name.rpartition(".")
    setattr(model.get_submodule(parent), last, module)


def unwrapped(module: nn.Module) -> nn.Module:
    """Return the layer of the base under all wrappers."""
    if isinstance(module, AdaptedLinear | AdaptedEmbedding):
        return unwrapped(module.base)
    return module


def plain_parameter(model: Adaptable, name: str) -> nn.Parameter | None:
    """Return a parameter by its name in the base, whatever stands around its layer."""
    slot, _, leaf = name.rpartition(".")
    try:
        module = unwrapped(model.get_submodule(slot))
    except AttributeError:
        return None
    found = getattr(module, leaf, None)
    return found if isinstance(found, nn.Parameter) else None


def base_parameters(model: Adaptable) -> list[str]:
    """Return the names that the parameters have in the base, whatever stands around its layers."""
    names = [name.replace(".base.", ".") for name, _ in model.named_parameters()]
    return [name for name in dict.fromkeys(names) if plain_parameter(model, name) is not None]


def embedding_of(model: Adaptable) -> TokenEmbedding:
    """Return the embedding as it is now, wrappers and all."""
    return cast(TokenEmbedding, model.get_submodule(EMBEDDING))

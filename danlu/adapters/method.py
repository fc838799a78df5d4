"""A method of adapting: how an adapter is made fresh, read from a folder and written into one.

One file per method in `danlu/adapters/methods`, found by its name; its `METHOD` is all that others
know of it. Methods need not wrap linear layers: what a method does to a model is the business of
the `Attached` that it returns.
"""

import importlib
import pkgutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from danlu.adapters.attached import Attached
from danlu.config.base import Config
from danlu.errors import AdapterError
from danlu.weights.files import WeightFile
from danlu.weights.rules import Entry


@dataclass(frozen=True)
class AdapterSource:
    """An adapter's folder that is being read.

    Attributes:
        folder: where it is.
        config: its `adapter_config.json`.
        weights: its tensors.
        stamp: its danlu.json; empty for what other tools wrote.
    """

    folder: Path
    config: Mapping[str, Any]
    weights: WeightFile
    stamp: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class AdapterContent:
    """What an adapter's folder holds.

    Attributes:
        config: of `adapter_config.json`, without `base_model_name_or_path`.
        tensors: of `adapter_model.safetensors`.
        stamp: noted in danlu.json, where the format of PEFT has no place for it.
    """

    config: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    stamp: Mapping[str, Any] = field(default_factory=dict)


class AdapterMethod(Protocol):
    """What a method answers.

    Attributes:
        name: the key `method` of its config.
        config: the class of its config.
        peft_types: values of `peft_type` in an `adapter_config.json` that it reads.
    """

    name: str
    config: type[Config]
    peft_types: tuple[str, ...]

    def attach(
        self,
        model: Any,
        config: Any,
        generator: torch.Generator,
        entries: Mapping[str, Entry],
    ) -> Attached:
        """Return a fresh adapter, which changes nothing; the model is left as it is.

        Args:
            model: what it is made for.
            config: of this method.
            generator: draws its numbers.
            entries: the published tensors of the model by name.

        Raises:
            AdapterError: if the config does not fit the model.
        """

    def read(self, model: Any, source: AdapterSource, entries: Mapping[str, Entry]) -> Attached:
        """Return the adapter of a folder; the model is left as it is.

        Raises:
            AdapterError: with everything in the folder that does not fit the model.
        """

    def write(self, model: Any, attached: Any, entries: Mapping[str, Entry]) -> AdapterContent:
        """Return what a folder with this adapter holds, in the format of PEFT."""


@cache
def methods() -> dict[str, AdapterMethod]:
    """Return every method by its name."""
    package = importlib.import_module("danlu.adapters.methods")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    found = [importlib.import_module(f"{package.__name__}.{name}").METHOD for name in names]
    return {method.name: method for method in found}


def method_of_config(config: Config) -> AdapterMethod:
    """Return the method that a config belongs to."""
    return methods()[config.method]  # type: ignore[attr-defined]


def method_of_peft(peft_type: object, path: Path) -> AdapterMethod:
    """Return the method that reads a `peft_type`.

    Raises:
        AdapterError: if none does.
    """
    for method in methods().values():
        if peft_type in method.peft_types:
            return method
    known = [name for method in methods().values() for name in method.peft_types]
    raise AdapterError(
        f"'{path}' is an adapter of type {peft_type!r}. Expected one of {', '.join(known)}. "
        "Merge it with the tool that made it, and open the merged model."
    )

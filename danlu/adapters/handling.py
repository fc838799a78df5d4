"""What can be done with the adapters of a model, whatever their method.

attach_adapter    a fresh one, to be trained
read_adapter      one from a folder              write_adapter     one into a folder
disabled          the base alone, for a while    train_only        what is trained
merge_adapters    into the weights               unmerge_adapters  and out again
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch

from danlu.adapters.attached import Adaptable, Attached
from danlu.adapters.folder import open_folder, write_folder
from danlu.adapters.merging import Unmerged, tie_or_untie
from danlu.adapters.method import method_of_config, method_of_peft, methods
from danlu.config.base import Config
from danlu.errors import AdapterError, did_you_mean
from danlu.weights.rules import Entry

DEFAULT = "default"


def attach_adapter(
    model: Adaptable,
    config: Config,
    generator: torch.Generator,
    name: str = DEFAULT,
    entries: Mapping[str, Entry] | None = None,
) -> list[str]:
    """Put a fresh adapter on `model`, freeze everything else, and return what it adapts.

    A fresh adapter changes nothing: the outputs are those of before, bit for bit.

    Args:
        model: with or without other adapters.
        config: of any method.
        generator: draws its numbers.
        name: to tell it from other adapters.
        entries: the published tensors of the model, where the config uses published names.

    Raises:
        AdapterError: if the config does not fit the model, or the name is taken.
    """
    _check_free(model, name)
    attached = method_of_config(config).attach(model, config, generator, entries or {})
    _put_on(model, name, attached)
    train_only(model, name)
    return attached.names


def read_adapter(
    model: Adaptable, entries: Mapping[str, Entry], folder: Path, name: str = DEFAULT
) -> list[str]:
    """Put the adapter in `folder` on `model`; return what it adapts.

    Raises:
        AdapterError: with everything in the folder that does not fit the model, which is then
            as it was.
    """
    _check_free(model, name)
    source = open_folder(folder)
    method = method_of_peft(source.config.get("peft_type"), folder / "adapter_config.json")
    attached = method.read(model, source, entries)
    _put_on(model, name, attached)
    return attached.names


def write_adapter(
    model: Adaptable, entries: Mapping[str, Entry], folder: Path, base: str, name: str = DEFAULT
) -> None:
    """Write one adapter of `model` into `folder`, in PEFT's format.

    Args:
        model: with the adapter.
        entries: the published tensors of the model.
        folder: made if needed.
        base: path or id of the base, for the reader's information.
        name: of the adapter.

    Raises:
        AdapterError: if there is no such adapter.
    """
    attached = _adapter(model, name)
    content = methods()[attached.method].write(model, attached, entries)
    write_folder(folder, content, base)


def adapter_names(model: Adaptable) -> list[str]:
    """Return the names of the adapters, in the order in which they were put on."""
    return list(model.adapters)


def train_only(model: Adaptable, name: str = DEFAULT) -> None:
    """Freeze everything but one adapter (what a warm start trains on)."""
    trained = {id(parameter) for parameter in _adapter(model, name).parameters()}
    for parameter in model.parameters():
        parameter.requires_grad_(id(parameter) in trained)


def lr_scales(model: Adaptable) -> dict[str, float]:
    """Return factors on the learning rate by the names of parameters that have one (LoRA+)."""
    factors = {
        id(parameter): factor
        for attached in model.adapters.values()
        for parameter, factor in attached.lr_scales().items()
    }
    return {n: factors[id(p)] for n, p in model.named_parameters() if id(p) in factors}


@contextmanager
def disabled(model: Adaptable) -> Iterator[None]:
    """Let `model` compute as its base does, bit for bit, while the context lasts."""
    off = dict(model.adapters)
    for attached in reversed(off.values()):
        attached.take_off(model)
    try:
        yield
    finally:
        for name, attached in reversed(model.adapters.items()):
            if name not in off:  # put on meanwhile; it goes on top of the others
                attached.take_off(model)
        for attached in model.adapters.values():
            attached.put_on(model)


@torch.no_grad()
def merge_adapters(model: Adaptable, *, reversible: bool = False) -> list[str]:
    """Make every adapter part of the weights; return the names of what was changed.

    A head that was tied to the embedding and now differs from it is untied, in the config too.

    Args:
        model: with adapters.
        reversible: keep the base in memory, so that `unmerge_adapters` gives it back bit for bit.

    Raises:
        AdapterError: if one cannot be merged; the model is then as it was.
    """
    reasons = [
        f"The adapter {name!r} cannot be merged: {attached.not_mergeable}"
        for name, attached in model.adapters.items()
        if attached.not_mergeable
    ]
    if reasons:
        raise AdapterError("\n".join(reasons))
    before = Unmerged.of(model) if reversible else None
    changed: dict[str, None] = {}
    for attached in model.adapters.values():
        attached.merge(model)
        changed |= dict.fromkeys(attached.names)
    model.adapters.clear()
    model.unmerged = before
    tie_or_untie(model)
    return list(changed)


def unmerge_adapters(model: Adaptable) -> list[str]:
    """Take merged adapters out of the weights again; return their names.

    The base is back bit for bit, and the adapters are on beside it, as before `merge_adapters`.

    Raises:
        AdapterError: if nothing was merged reversibly.
    """
    before = model.unmerged
    if before is None:
        raise AdapterError(
            "Nothing can be unmerged: no adapter was merged with reversible=True. Expected that, "
            "as the base is kept in memory for it; or load the base again."
        )
    model.unmerged = None
    before.restore(model)
    return list(model.adapters)


def _check_free(model: Adaptable, name: str) -> None:
    if name in model.adapters:
        raise AdapterError(
            f"There is an adapter {name!r} already. Expected a name of its own; merge or remove "
            "that one, or call this one something else."
        )


def _adapter(model: Adaptable, name: str) -> Attached:
    if name not in model.adapters:
        known = ", ".join(map(repr, model.adapters)) or "none"
        raise AdapterError(
            f"There is no adapter {name!r}; attached: {known}. Attach one first."
            f"{did_you_mean(name, model.adapters)}"
        )
    attached: Attached = model.adapters[name]
    return attached


def _put_on(model: Adaptable, name: str, attached: Attached) -> None:
    attached.put_on(model)
    model.adapters[name] = attached

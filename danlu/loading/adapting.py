"""Adapters put on a decoder, and written beside it, in the names of its published layout."""

from pathlib import Path

import torch

from danlu.adapters import handling
from danlu.adapters.handling import (
    adapter_names,
    disabled,
    lr_scales,
    merge_adapters,
    train_only,
    unmerge_adapters,
)
from danlu.adapters.methods.prompt import with_tokens
from danlu.adapters.token_ids import with_token_ids
from danlu.config.base import Config
from danlu.errors import AdapterError
from danlu.loading.building import family_named
from danlu.loading.layout import HEAD, published_layout
from danlu.models.decoder import Decoder
from danlu.tokenizer import Tokenizer
from danlu.tokenizer.stamp import add_to_stamp, read_stamp
from danlu.weights.fingerprint import weights_fingerprint

__all__ = [
    "adapter_names",
    "attach_adapter",
    "base_fingerprint",
    "disabled",
    "load_adapter",
    "lr_scales",
    "merge_adapters",
    "save_adapter",
    "train_only",
    "unmerge_adapters",
]


def attach_adapter(
    decoder: Decoder,
    config: Config,
    generator: torch.Generator,
    name: str = handling.DEFAULT,
    tokenizer: Tokenizer | None = None,
) -> list[str]:
    """Put a fresh adapter on `decoder`, freeze everything else, and return what it adapts.

    Args:
        decoder: the base, with or without other adapters.
        config: of any method; layers may be named as here or as in the published checkpoint.
        generator: draws its numbers.
        name: to tell it from other adapters.
        tokenizer: makes tokens of the texts that the config names.

    Raises:
        AdapterError: if the config does not fit the base.
    """
    if tokenizer is not None:
        config = with_token_ids(with_tokens(config, tokenizer.encode), tokenizer)
    entries = published_layout(decoder).entries
    return handling.attach_adapter(decoder, config, generator, name, entries)


def load_adapter(
    decoder: Decoder,
    folder: str | Path,
    name: str = handling.DEFAULT,
    *,
    any_base: bool = False,
) -> list[str]:
    """Put the adapter in `folder`, of any method, on `decoder`; return what it adapts.

    Nothing is frozen; `train_only` makes it the one thing that is trained, for a warm start.

    Args:
        decoder: the base, with or without other adapters.
        folder: of the adapter.
        name: to tell it from other adapters.
        any_base: take it although it was trained on other weights, if its shapes fit.

    Raises:
        AdapterError: with everything that does not fit the base, or if it was trained on another.
    """
    if not any_base:
        _check_base(decoder, Path(folder))
    return handling.read_adapter(decoder, published_layout(decoder).entries, Path(folder), name)


def save_adapter(
    decoder: Decoder, folder: str | Path, base: str | Path, name: str = handling.DEFAULT
) -> None:
    """Write an adapter of `decoder` into `folder` in PEFT's format.

    Args:
        decoder: with the adapter on.
        folder: made if needed.
        base: path or id of the model that the adapter belongs to.
        name: of the adapter.

    Raises:
        AdapterError: if there is no such adapter.
    """
    entries = published_layout(decoder).entries
    handling.write_adapter(decoder, entries, Path(folder), str(base), name)
    fingerprint = base_fingerprint(decoder)
    if fingerprint is not None:
        add_to_stamp(Path(folder), base=fingerprint)


def base_fingerprint(decoder: Decoder) -> str | None:
    """Return the fingerprint of the weights that `decoder` was opened with, None if of none."""
    published = decoder.published
    if published is None or published.folder is None or not published.folder.is_dir():
        return None
    entries = published_layout(decoder).entries
    prefix = family_named(published.family).optional_prefix or ""
    tied = decoder.config.tie_word_embeddings

    def canonical(stored: str) -> str | None:
        """Return the full name of a stored tensor that is, or is part of, a parameter."""
        for name in (stored, prefix + stored):
            entry = entries.get(name) or entries.get(f"{name.rpartition('.')[0]}.weight")
            if entry is not None:
                return None if tied and entry.ours == (HEAD,) else name
        return None

    return weights_fingerprint(published.folder, canonical)


def _check_base(decoder: Decoder, folder: Path) -> None:
    trained_on, found = read_stamp(folder).get("base"), base_fingerprint(decoder)
    if trained_on is None or found is None or trained_on == found:
        return
    assert decoder.published is not None
    raise AdapterError(
        f"The adapter in '{folder}' is for another base: it was trained on weights with the "
        f"fingerprint {trained_on[:12]}, and '{decoder.published.folder}' has {found[:12]}. "
        "Expected the very weights it was trained on; open it on those. If the difference is "
        "meant, load_adapter takes any_base=True."
    )
